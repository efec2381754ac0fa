"""The operation `reimage`: what its thread does, from staging to the new system's confirmation.

It continues across boots, since its record and the job are on the data volume. Its thread does what
takes long, and otherwise waits for the next state, which calls lead to (`service.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast._engine import CancelledError
from holdfast.node.identity import identify
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug, now
from holdfast.privileged import Privileged
from holdfast.privileged.trial.models import failures
from holdfast.privileged.writes import Refused
from holdfast.reimage.after_boot import boot_outcome
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.after_boot.confirmation_clock import ConfirmationClock
from holdfast.reimage.after_boot.lifeboat import forget_lifeboat
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.library import Obtained
from holdfast.reimage.images.suppliers import Received
from holdfast.reimage.models import (
    ConfirmRequest,
    FetchedFrom,
    ImagerReport,
    ImageSummary,
    Machine,
    ReimageResult,
    StageRequest,
)
from holdfast.reimage.planning import preflight
from holdfast.reimage.planning.trials import Trials
from holdfast.reimage.previous import saving_space
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job
from holdfast.scopes import Scope
from holdfast.text.wording import sentence_of

KIND, RECHECK = "reimage", "reimage.check"
_WAYS_OUT = (
    " Nothing was deleted. See which one it is, then `confirm` with `override`, or `rollback`, or "
    "`disarm` and stage again."
)
_POLL_SECONDS = 0.5
_RESOURCE = frozenset({"reimage"})
_S = ReimageState


class ReimageOperation:
    """Runs the attempt. `acting` is held by the thread that changes the boot loader."""

    def __init__(
        self,
        *,
        attempt: Attempt,
        acting: threading.Lock,
        privileged: Privileged,
        images: ImageLibrary,
        trials: Trials,
        examiner: PostBootChecks,
        describe: Callable[[ImageSummary | None, str | None, StageRequest | None], Machine],
        usable: Callable[[], None],
        state_dir: Path,
        clock: ConfirmationClock,
    ) -> None:
        self._attempt = attempt
        self._acting = acting
        self._privileged = privileged
        self._images = images
        self._trials = trials
        self._examiner = examiner
        self._describe = describe
        self._usable = usable
        self._state_dir = state_dir
        self._clock = clock

    def kinds(self, check: Callable[[Any], None]) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of operation: `reimage`, and `reimage.check` to check once more.

        `check` raises for what cannot be started.
        """

        def resources(_params: Any) -> frozenset[str]:
            return _RESOURCE

        return (
            Kind(
                KIND,
                StageRequest,
                ReimageResult,
                self._run,
                check=check,
                resumable=True,
                resources=resources,
                scope=Scope.ADMIN,
                waits=True,
            ),
            Kind(
                RECHECK,
                ConfirmRequest,
                ReimageResult,
                self._recheck,
                check=check,
                resumable=True,
                resources=resources,
                scope=Scope.ADMIN,
            ),
        )

    def _run(self, context: Context[StageRequest]) -> ReimageResult:
        self._adopt(context)
        try:
            self._look_after_boot(context)
            if self._attempt.state is _S.STAGING:
                self._stage(context)
            self._wait(context, _S.STAGED, _S.ARMED, _S.REBOOTING)
            if self._attempt.state is _S.BOOTED:
                self._judge(context, "first")
                self._wait(context, _S.BOOTED)
        except CancelledError:
            if not context.will_resume():
                self._withdraw()
            raise
        except (RequestError, OperationFailed, OSError, ValueError) as error:
            if self._attempt.state is _S.BOOTED:
                self._attempt.unconfirmed(f"It could not be checked: {sentence_of(error)}")
            elif self._attempt.state.under_way:
                self._give_up(sentence_of(error))
            raise
        return self._result()

    def _adopt(self, context: Context[StageRequest]) -> None:
        job = self._attempt.job
        if job is None or job.operation != context.id:
            self._usable()
            self._attempt.begin(context.id, context.params)

    def _give_up(self, why: str) -> None:
        """End it where a fault leaves it: only without a boot since does the old system run."""
        if self._attempt.in_its_boot:
            self._attempt.fail(why)
        else:
            self._attempt.unknown(f"It could not be determined which system runs: {why}")

    def _look_after_boot(self, context: Context[Any]) -> None:
        """Determine whether this is the new system, or why it is still the old one.

        Raises `OperationFailed` unless it is the new one, or there was no boot.
        """
        job = self._attempt.require()
        if job.state not in (_S.STAGED, _S.ARMED, _S.REBOOTING, _S.UNKNOWN):
            return
        context.progress.enter("looking after the boot")

        def pause(seconds: float) -> None:
            self._attempt.wait(seconds)
            _check(context)

        match self._look(job, pause):
            case boot_outcome.Arrived(marker, took_back):
                report = ImagerReport(**marker.model_dump(include=set(ImagerReport.model_fields)))
                self._attempt.update(imager=report, identity_problems=marker.identity.problems)
                resumed = _resumed(report)
                self._arrived(job, _arrival(job, took_back=took_back) + resumed)
            case boot_outcome.Recognised(why):
                self._attempt.update(recognised=why)
                self._arrived(job, f"The new system runs, without the marker of the imager: {why}")
            case boot_outcome.Returned(why, armed_still):
                self._attempt.store.previous.withdraw(job.nonce)
                if armed_still is not None:
                    why += (
                        f" The boot loader could not be put back: {armed_still} The machine may "
                        "still boot the imager; see to it."
                    )
                self._attempt.fail(why)
                raise OperationFailed(Problem.of(Slug.NOT_REIMAGED, why))
            case boot_outcome.Unknown(why):
                self._attempt.unknown(why)
                raise OperationFailed(
                    Problem.of(
                        Slug.NOT_CONFIRMED,
                        f"It cannot be determined which system runs. {why}{_WAYS_OUT}",
                    )
                )
            case boot_outcome.Untouched():
                self._settle(job)

    def _arrived(self, job: Job, why: str) -> None:
        self._attempt.update(booted_at=now(), waiting=self._clock.begin())
        self._attempt.store.previous.arrived(job.nonce)
        self._attempt.move(_S.BOOTED, why)

    def _look(self, job: Job, pause: Callable[[float], None]) -> boot_outcome.Found:
        if job.image is not None and not job.image_file_systems:
            directory = self._attempt.image_directory(job)
            found = {
                "image_file_systems": self._images.file_systems(directory),
                "image_root_partition": self._images.root_partition_uuid(directory),
            }
            job = job.model_copy(update=found)
        with _boot_loader_in_doubt():
            return boot_outcome.detect(job, self._attempt.boot_id, self._privileged, pause)

    def _settle(self, job: Job) -> None:
        """Resume where the daemon, but not the machine, was restarted."""
        if job.state is _S.REBOOTING:
            self._attempt.move(_S.ARMED, "The daemon was restarted before the machine was.")
        elif job.state is _S.STAGED and job.boot_id is not None:
            # It ended while it armed, before it reported to be armed.
            with _boot_loader_in_doubt():
                self._privileged.disarm()
            self._attempt.update(boot_id=None, armed=None)

    def _stage(self, context: Context[StageRequest]) -> None:
        request, progress = context.params, context.progress
        progress.enter("fetching the descriptor")
        # This machine's own, or one that a key or a digest has to vouch for.
        kept = self._attempt.store.previous.obtained(request.descriptor_sha256)
        found = kept or self._images.obtain(request, progress)
        image = self._images.summary(found)
        content = self._images.content_url(request, found)
        self._attempt.clear_images(keep=found.sha256)
        problems = preflight.image_problems(image, request, content)
        directory = self._attempt.store.image_directory(found.sha256)
        source = content if request.mode == "network" else str(directory / "image")
        problems += self._describe(image, source, request).blocked
        problems += self._saving_problems(request, image, directory)
        trial = self._trials.network(image) if request.mode == "network" else []
        problems += failures(trial)
        if problems:
            raise RequestError(Slug.CONFLICT, " ".join(problems))
        self._attempt.update(image=image, content_url=content, trial=trial)
        if request.mode == "staged":
            self._fetch(content, found, directory, context)
            progress.enter("trying the new root")
            trial = self._trials.staged(request, image)
            self._attempt.update(trial=trial, tried_in=self._attempt.boot_id)
            failed = " ".join(["", *failures(trial)])
            self._attempt.move(
                _S.STAGED, f"The image is on the data volume, all of it verified.{failed}"
            )
        else:
            self._images.keep_descriptor(found, directory)
            self._attempt.move(_S.STAGED, "The descriptor is here; the imager fetches the image.")

    def _fetch(
        self, content: str, found: Obtained, directory: Path, context: Context[StageRequest]
    ) -> None:
        kept = self._attempt.store.previous.of(context.params.descriptor_sha256)
        if kept is not None:
            self._attempt.store.previous.link(kept, directory)
        try:
            received = Received()
            self._images.fetch(
                content,
                found,
                directory,
                context.progress,
                mirrors=context.params.mirrors,
                received=received,
            )
            self._attempt.update(fetched=[FetchedFrom(**each) for each in received.listed()])
        except OperationFailed as error:
            if kept is None or (directory / "image").exists():
                raise
            # It was found to be another file than was described, and there is nowhere else one.
            raise OperationFailed(
                Problem.of(
                    Slug.BAD_RECORD,
                    f"The system kept in {kept.path} cannot be rolled back to: its image does not "
                    "match its descriptor.",
                )
            ) from error

    def _saving_problems(
        self, request: StageRequest, image: ImageSummary, directory: Path
    ) -> Sequence[str]:
        """Return why the old system could not be kept. Raises `OSError`."""
        if not request.save_previous:
            return ()
        staging = None
        if request.mode == "staged":
            present = self._images.present_bytes(directory)
            staging = preflight.staging_space(image, self._state_dir, present)
        return preflight.space_problems([saving_space(self._state_dir, staging)])

    def _judge(self, context: Context[Any], attempt: str) -> None:
        """Check the new system. Raises `OperationFailed` unless all is well."""
        job = self._attempt.require()
        checks = self._examiner.examine(job, context.progress, self._privileged, attempt=attempt)
        failed = [check for check in checks if not check.passed]
        self._attempt.update(checks=checks)
        if failed:
            why = " ".join(f"{check.name}: {check.detail}" for check in failed)
            self._attempt.unconfirmed(why)
            raise OperationFailed(
                Problem.of(
                    Slug.NOT_CONFIRMED,
                    f"The new system runs, and is not confirmed: {why}",
                    checks=[check.model_dump(mode="json") for check in checks],
                )
            )
        if job.request.confirm == "auto" or attempt != "first":
            forget_lifeboat(job, self._privileged)
            self._attempt.confirmed("All checks passed.")

    def _recheck(self, context: Context[ConfirmRequest]) -> ReimageResult:
        """Check a new system again that was not confirmed, or was not recognised."""
        if self._attempt.state is _S.UNKNOWN:
            self._look_after_boot(context)
        try:
            self._judge(context, context.id)
        except CancelledError:
            if self._attempt.state is _S.BOOTED and not context.will_resume():
                self._attempt.unconfirmed("Cancelled before it was confirmed.")
            raise
        return self._result()

    def _result(self) -> ReimageResult:
        job = self._attempt.require()
        if job.state is not _S.CONFIRMED or job.image is None:
            raise OperationFailed(
                Problem.of(Slug.NOT_REIMAGED, job.reason or f"It ended as {job.state}.")
            )

        def since(moment: Any) -> float | None:
            if job.rebooted_at is None or moment is None:
                return None
            return float((moment - job.rebooted_at).total_seconds())

        return ReimageResult(
            ok=all(check.passed for check in job.checks),
            image=job.image,
            image_id=identify().image_id,
            checks=job.checks,
            imager=job.imager,
            down_seconds=since(job.booted_at),
            confirmed_seconds=since(job.confirmed_at),
        )

    def _withdraw(self) -> None:
        """Undo what a cancelled attempt did."""
        with self._acting:
            job = self._attempt.require()
            if job.state is _S.CONFIRMED:
                return  # by a person, just before it was cancelled
            if job.state in (_S.BOOTED, _S.UNCONFIRMED):
                late = f"Not confirmed within {job.request.confirm_seconds} s."
                self._attempt.unconfirmed(
                    late if self._clock.overdue(job) else "Cancelled before it was confirmed."
                )
                return
            if not self._attempt.in_its_boot:
                self._attempt.unknown("Cancelled before it was determined which system runs.")
                return
            try:
                if job.boot_id is not None:
                    self._privileged.disarm()
            except (Refused, OSError) as error:
                self._attempt.fail(
                    f"Cancelled, but the boot loader could not be put back: {sentence_of(error)} "
                    "The next boot may be the imager's; see to it before rebooting."
                )
                raise
            self._attempt.clear_images()
            self._attempt.move(
                _S.IDLE, "Cancelled; the boot loader is as it was.", armed=None, boot_id=None
            )

    def _wait(self, context: Context[Any], *states: ReimageState) -> None:
        """Wait for a state that is none of these. Raises `CancelledError`."""
        with self._attempt.lock:
            while (state := self._attempt.state) in states:
                context.progress.enter(state.value)
                self._attempt.wait(_POLL_SECONDS)
                _check(context)


def _arrival(job: Job, *, took_back: bool) -> str:
    """Return which system runs."""
    if not job.restores:
        return "The new system runs: it has this job's number."
    reverted = " The arming that it was kept with was reverted." if took_back else ""
    return f"The system that was kept runs again: it has this job's number.{reverted}"


def _resumed(report: ImagerReport) -> str:
    if not report.resumed:
        return ""
    times = "once" if report.resumed == 1 else f"{report.resumed} times"
    return f" The imager was booted from the lifeboat {times}, as after a power cut, and resumed."


def _check(context: Context[Any]) -> None:
    if context.progress.cancelled:
        raise CancelledError("cancelled")


@contextmanager
def _boot_loader_in_doubt() -> Iterator[None]:
    """Return what a fault means when it is not known whether the machine is armed."""
    try:
        yield
    except (Refused, OSError) as error:
        raise OperationFailed(
            Problem.of(
                Slug.NOT_REIMAGED,
                "The boot loader could not be asked or put back after a start: "
                f"{sentence_of(error)} The machine may still boot the imager; see to it.",
            )
        ) from error
