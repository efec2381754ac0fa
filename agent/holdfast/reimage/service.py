"""Re-imaging as the API sees it: one attempt at a time, from staging to the new system.

An attempt is one operation of kind `reimage`, which goes on across boots: its record and the job's
(`store.py`) lie on the data volume. The operation's thread does what takes long and otherwise waits
for the next state, which the other calls bring about. docs/reimage.md has the states.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdfast._engine import CancelledError
from holdfast.node.files import read_text
from holdfast.node.identity import identify
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug, now
from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import (
    ArmRequest,
    NetworkImage,
    StagedImage,
    StatusServer,
)
from holdfast.privileged.writes import Refused
from holdfast.reimage import aftermath, machine
from holdfast.reimage.checks import Examiner
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.layout import layout_of
from holdfast.reimage.models import (
    ConfirmRequest,
    ImagerReport,
    ImageSummary,
    Machine,
    ReimagePlan,
    ReimageResult,
    ReimageState,
    ReimageStatus,
    StageRequest,
    Transition,
)
from holdfast.reimage.store import Job, JobStore

log = logging.getLogger(__name__)

KIND, RECHECK = "reimage", "reimage.check"
_LOOK_SECONDS = 0.5
_RESOURCE = frozenset({"reimage"})
_S = ReimageState


class Reimage:
    """The one attempt of this machine. Methods may be called from any thread, and may block."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        privileged: Privileged,
        imager: Path,
        ca_file: Path | None,
        images: ImageLibrary,
        examiner: Examiner,
        status_server: StatusServer | None,
        degraded: Callable[[], Sequence[str]],
    ) -> None:
        self._roots = tuple(roots)
        self._state_dir = state_dir
        self._store = JobStore(state_dir)
        self._privileged = privileged
        self._imager = imager
        self._ca_file = ca_file
        self._images = images
        self._examiner = examiner
        self._status_server = status_server
        self._degraded = degraded
        self._boot_id = read_text(Path("/proc/sys/kernel/random/boot_id")) or ""
        self._changed = threading.Condition(threading.RLock())
        self._acting = threading.Lock()
        """Held by a call that changes the boot loader, so that there is one at a time."""
        self._job: Job | None = None
        self._problem: str | None = None

    def prepare(self) -> None:
        """Read where the last process was; what follows from it, the operation does."""
        try:
            self._job = self._store.load()
        except RequestError as error:
            self._problem = error.detail
            log.error("re-imaging: %s", error.detail)

    def kinds(self) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of operation: `reimage`, and `reimage.check` to check once more."""

        def resources(_params: Any) -> frozenset[str]:
            return _RESOURCE

        return (
            Kind(KIND, StageRequest, ReimageResult, self._run, True, resources, waits=True),
            Kind(RECHECK, ConfirmRequest, ReimageResult, self._recheck, False, resources),
        )

    def check(self, params: StageRequest | ConfirmRequest) -> None:
        """Find out before an operation is started whether it can be. Raises `RequestError`."""
        if isinstance(params, ConfirmRequest):
            if self._state() is not _S.UNCONFIRMED:
                raise RequestError(
                    Slug.CONFLICT,
                    f"There is nothing to confirm: the state is `{self._state()}`.",
                )
            return
        self._usable()
        if params.manifest is not None:
            self._examiner.proof.exists(params.manifest)
        self._images.check(params.descriptor, params.content)
        blocked = self._machine().blocked
        if blocked:
            raise RequestError(
                Slug.CONFLICT, f"This machine cannot be re-imaged: {' '.join(blocked)}"
            )

    def figures(self) -> tuple[ReimageState, int, ImagerReport | None]:
        """Return the state, the number of failed checks, and the imager's report. Cheap."""
        with self._changed:
            job = self._job
            if job is None:
                return _S.IDLE, 0, None
            return job.state, sum(not one.passed for one in job.checks), job.imager

    # What is asked and answered at once.

    def status(self) -> ReimageStatus:
        """Say where this machine is on its way to another image."""
        with self._changed:
            job = self._job
        source = None if job is None or job.image is None else self._source_text(job)
        found = self._machine(job.image if job else None, source)
        # Once armed, what is in the way of another arming is this one.
        armed = job is not None and job.armed is not None and job.state.under_way
        blocked = [*self._own_problems(), *(() if armed else found.blocked)]
        return ReimageStatus(
            **found.model_dump(exclude={"blocked"}),
            blocked=blocked,
            state=job.state if job else _S.IDLE,
            reason=job.reason if job else None,
            operation=job.operation if job else None,
            nonce=job.nonce if job else None,
            image=job.image if job else None,
            mode=job.request.mode if job else None,
            image_id=identify().image_id,
            carried=list(job.armed.identity) if job and job.armed else [],
            notes=list(job.armed.notes) if job and job.armed else [],
            checks=job.checks if job else [],
            imager=job.imager if job else None,
            history=job.history if job else [],
        )

    def plan(self, request: StageRequest) -> ReimagePlan:
        """Say what re-imaging with an image would do, and everything that is in the way.

        Fetches the descriptor and nothing else. Raises `RequestError` if the request itself makes
        no sense.
        """
        self._images.check(request.descriptor, request.content)
        image, blocked, space = None, self._own_problems(), []
        source: str | None = None
        try:
            if request.manifest is not None:
                self._examiner.proof.exists(request.manifest)
        except RequestError as error:
            blocked.append(error.detail)
        try:
            found = self._images.descriptor(request.descriptor, request.descriptor_sha256)
            image = self._images.summary(found, request.descriptor_sha256)
        except (RequestError, OperationFailed, OSError) as error:
            blocked.append(_sentence(error))
        else:
            source = self._images.content_url(request.descriptor, request.content, found)
            blocked += machine.image_problems(image, request, source)
            directory = self._store.image_directory(request.descriptor_sha256)
            if request.mode == "staged":
                source = str(directory / "image")
                try:
                    present = self._images.present_bytes(directory)
                    space = [machine.staging_space(image, self._state_dir, present)]
                except OSError as error:
                    blocked.append(f"Free space cannot be looked at: {_sentence(error)}")
                blocked += machine.space_problems(space)
            elif not machine.on_the_network(source):
                source = None
        seen = self._machine(image, source)
        blocked += seen.blocked
        return ReimagePlan(
            **seen.model_dump(exclude={"blocked", "space"}),
            space=space,
            blocked=blocked,
            ok=not blocked,
            image=image,
            mode=request.mode,
            identity=request.identity,
            steps=machine.steps(seen, image, request),
        )

    def arm(self) -> ReimageStatus:
        """Have the next boot, and only that one, be the imager's. Idempotent.

        Raises `RequestError`, also with the reason why it was not done; then nothing is armed.
        """
        with self._acting:
            job = self._in_state(_S.STAGED, _S.ARMED)
            if job.state is _S.STAGED:
                # On the disk first: if this process ends meanwhile, its successor takes it back.
                self._update(layout=layout_of(self._roots), boot_id=self._boot_id)
                try:
                    report = self._privileged_call(lambda: self._privileged.arm(self._arming(job)))
                except RequestError:
                    # The answer may be what got lost. Unless this succeeds too, `boot_id` stays:
                    # cancelling, or the daemon's next start, takes back what may be armed.
                    self._privileged_call(self._privileged.disarm)
                    self._update(boot_id=None)
                    raise
                self._update(armed=report)
                self._move(_S.ARMED, f"{report.loader} boots the imager once, next time.")
        return self.status()

    def disarm(self) -> ReimageStatus:
        """Take the arming back, byte for byte; what was staged stays. Idempotent."""
        with self._acting:
            job = self._in_state(_S.STAGED, _S.ARMED)
            if job.state is _S.ARMED:
                self._privileged_call(self._privileged.disarm)
                self._update(armed=None, boot_id=None)
                self._move(_S.STAGED, "Disarmed: the boot loader is as it was.")
        return self.status()

    def reboot(self) -> ReimageStatus:
        """Reboot into the imager. Raises `RequestError` unless it is armed."""
        with self._acting:
            job = self._in_state(_S.ARMED)
            self._update(rebooted_at=now())
            self._move(_S.REBOOTING, "The reboot was ordered.")
            try:
                self._privileged_call(lambda: self._privileged.reboot(job.nonce))
            except RequestError as error:
                self._move(_S.ARMED, f"The machine was not rebooted: {error.detail}")
                raise
        return self.status()

    def confirm(self, request: ConfirmRequest) -> ReimageStatus | None:
        """Take the new system for good; None if its checks have to be made again first.

        Raises `RequestError` if there is no new system, or its first checks are not over.
        """
        with self._acting, self._changed:
            job = self._in_state(_S.BOOTED, _S.UNCONFIRMED, _S.CONFIRMED)
            if job.state is _S.BOOTED and not job.checks:
                raise RequestError(
                    Slug.CONFLICT, "The new system is still being checked; confirm it afterwards."
                )
            if job.state is _S.UNCONFIRMED and not request.override:
                return None
            if job.state is not _S.CONFIRMED:
                failed = [one.name for one in job.checks if not one.passed]
                told = f", although these checks failed: {', '.join(failed)}" if failed else ""
                self._confirmed(f"Confirmed on request{told}.")
        return self.status()

    # The operation.

    def _run(self, context: Context[StageRequest]) -> ReimageResult:
        self._adopt(context)
        try:
            self._look_after_boot(context)
            if self._state() is _S.STAGING:
                self._stage(context)
            self._wait(context, _S.STAGED, _S.ARMED, _S.REBOOTING)
            if self._state() is _S.BOOTED:
                self._judge(context, "first")
                self._wait(context, _S.BOOTED)
        except CancelledError:
            if not context.will_resume():
                self._withdraw()
            raise
        except (RequestError, OperationFailed, OSError, ValueError) as error:
            if self._state() is _S.BOOTED:
                self._unconfirmed(f"It could not be checked: {_sentence(error)}")
            elif self._state().under_way:
                self._fail(_sentence(error))
            raise
        return self._result()

    def _adopt(self, context: Context[StageRequest]) -> None:
        with self._changed:
            if self._job is not None and self._job.operation == context.id:
                return
            self._usable()
            self._clear_images(keep=context.params.descriptor_sha256)
            self._set(
                Job(operation=context.id, nonce=secrets.token_hex(16), request=context.params)
            )
            self._note(_S.IDLE, _S.STAGING, "Asked for.")

    def _look_after_boot(self, context: Context[StageRequest]) -> None:
        """Find out whether this is the new system, or why it is still the old one."""
        job = self._require()
        if job.state not in (_S.STAGED, _S.ARMED, _S.REBOOTING):
            return
        context.progress.enter("looking after the boot")

        def pause(seconds: float) -> None:
            with self._changed:
                self._changed.wait(seconds)
            _check(context)

        match self._look(job, pause):
            case aftermath.Arrived(marker):
                report = ImagerReport(**marker.model_dump(include=set(ImagerReport.model_fields)))
                self._update(
                    imager=report, identity_problems=marker.identity.problems, booted_at=now()
                )
                self._move(_S.BOOTED, "The new system runs: it brought back this job's number.")
            case aftermath.Returned(why):
                self._fail(why)
                raise OperationFailed(Problem.of(Slug.NOT_REIMAGED, why))
            case aftermath.Untouched():
                self._settle(job)

    def _look(self, job: Job, pause: Callable[[float], None]) -> Any:
        try:
            return aftermath.look(job, self._boot_id, self._privileged, pause)
        except (Refused, OSError) as error:
            raise OperationFailed(
                Problem.of(
                    Slug.NOT_REIMAGED,
                    "The boot loader could not be asked or put back after the boot: "
                    f"{_sentence(error)} The machine may still boot the imager; see to it.",
                )
            ) from error

    def _settle(self, job: Job) -> None:
        """Go on where the daemon, but not the machine, was restarted."""
        if job.state is _S.REBOOTING:
            self._move(_S.ARMED, "The daemon was restarted before the machine was.")
        elif job.state is _S.STAGED and job.boot_id is not None:
            # It ended while it armed, and nobody was told that it is armed.
            self._privileged.disarm()
            self._update(boot_id=None, armed=None)

    def _stage(self, context: Context[StageRequest]) -> None:
        request, progress = context.params, context.progress
        progress.enter("fetching the descriptor")
        found = self._images.descriptor(request.descriptor, request.descriptor_sha256)
        image = self._images.summary(found, request.descriptor_sha256)
        content = self._images.content_url(request.descriptor, request.content, found)
        problems = machine.image_problems(image, request, content)
        directory = self._store.image_directory(request.descriptor_sha256)
        source = content if request.mode == "network" else str(directory / "image")
        problems += self._machine(image, source).blocked
        if problems:
            raise RequestError(Slug.CONFLICT, " ".join(problems))
        self._update(image=image, content_url=content)
        if request.mode == "staged":
            self._images.fetch(content, found, directory, progress)
            self._move(_S.STAGED, "The image is on the data volume, all of it verified.")
        else:
            self._images.keep_descriptor(found, directory)
            self._move(_S.STAGED, "The descriptor is here; the imager fetches the image.")

    def _judge(self, context: Context[Any], attempt: str) -> None:
        """Check the new system. Raises `OperationFailed` unless all is well."""
        job = self._require()
        checks = self._examiner.examine(job, context.progress, attempt=attempt)
        failed = [one for one in checks if not one.passed]
        self._update(checks=checks)
        if failed:
            why = " ".join(f"{one.name}: {one.detail}" for one in failed)
            self._unconfirmed(why)
            raise OperationFailed(
                Problem.of(
                    Slug.NOT_CONFIRMED,
                    f"The new system runs, and is not confirmed: {why}",
                    checks=[one.model_dump(mode="json") for one in checks],
                )
            )
        if job.request.confirm == "auto" or attempt != "first":
            self._confirmed("All checks passed.")

    def _recheck(self, context: Context[ConfirmRequest]) -> ReimageResult:
        """Check a new system again that was not confirmed."""
        self._judge(context, context.id)
        return self._result()

    def _result(self) -> ReimageResult:
        job = self._require()
        if job.state is not _S.CONFIRMED or job.image is None:
            raise OperationFailed(
                Problem.of(Slug.NOT_REIMAGED, job.reason or f"It ended as {job.state}.")
            )

        def since(moment: Any) -> float | None:
            if job.rebooted_at is None or moment is None:
                return None
            return float((moment - job.rebooted_at).total_seconds())

        return ReimageResult(
            ok=all(one.passed for one in job.checks),
            image=job.image,
            image_id=identify().image_id,
            checks=job.checks,
            imager=job.imager,
            down_seconds=since(job.booted_at),
            confirmed_seconds=since(job.confirmed_at),
        )

    def _withdraw(self) -> None:
        """Take back what an attempt did that was cancelled."""
        with self._acting:
            job = self._require()
            if job.state in (_S.BOOTED, _S.CONFIRMED, _S.UNCONFIRMED):
                self._unconfirmed("Cancelled before it was confirmed.")
                return
            try:
                if job.boot_id is not None:
                    self._privileged.disarm()
            except (Refused, OSError) as error:
                self._fail(
                    f"Cancelled, but the boot loader could not be put back: {_sentence(error)} The "
                    "next boot may be the imager's; see to it before rebooting."
                )
                raise
            self._clear_images()
            self._update(armed=None, boot_id=None)
            self._move(_S.IDLE, "Cancelled; the boot loader is as it was.")

    # The job.

    def _arming(self, job: Job) -> ArmRequest:
        directory = self._store.image_directory(job.request.descriptor_sha256)
        source: StagedImage | NetworkImage
        if job.request.mode == "staged":
            source = StagedImage(path=str(directory / "image"))
        else:
            source = NetworkImage(url=job.content_url or "")
        return ArmRequest(
            nonce=job.nonce,
            operation=job.operation,
            descriptor_path=str(directory / "descriptor.json"),
            descriptor_sha256=job.request.descriptor_sha256,
            source=source,
            identity=job.request.identity,
            status=self._status_server,
            roots=[str(root) for root in self._roots],
            ca=None if self._ca_file is None else str(self._ca_file),
        )

    def _machine(self, image: ImageSummary | None = None, source: str | None = None) -> Machine:
        return machine.describe(self._roots, self._imager, image=image, source=source)

    def _source_text(self, job: Job) -> str:
        if job.request.mode == "network" and job.content_url is not None:
            return job.content_url
        return str(self._store.image_directory(job.request.descriptor_sha256) / "image")

    def _own_problems(self) -> list[str]:
        told = list(self._degraded())
        if self._problem is not None:
            told.append(self._problem)
        return told

    def _usable(self) -> None:
        """Raise `RequestError` where an attempt could not be remembered."""
        problems = self._own_problems()
        if problems:
            raise RequestError(Slug.UNAVAILABLE, " ".join(problems))

    def _privileged_call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Refused as error:
            raise RequestError(Slug.CONFLICT, str(error)) from error
        except OSError as error:
            raise RequestError(Slug.IO_ERROR, _sentence(error)) from error

    def _state(self) -> ReimageState:
        with self._changed:
            return self._job.state if self._job is not None else _S.IDLE

    def _require(self) -> Job:
        with self._changed:
            if self._job is None:
                raise RuntimeError("there is no attempt")
            return self._job

    def _in_state(self, *states: ReimageState) -> Job:
        with self._changed:
            job = self._job
            state = job.state if job is not None else _S.IDLE
            if job is None or state not in states:
                wanted = " or ".join(f"`{one}`" for one in states)
                raise RequestError(
                    Slug.CONFLICT,
                    f"This needs state {wanted}, and the state is `{state}`; see GET /v1/reimage.",
                )
            return job

    def _wait(self, context: Context[Any], *states: ReimageState) -> None:
        """Wait for a state that is none of these. Raises `CancelledError`."""
        with self._changed:
            while (state := self._require().state) in states:
                context.progress.enter(state.value)
                self._changed.wait(_LOOK_SECONDS)
                _check(context)

    def _set(self, job: Job) -> None:
        self._store.save(job)
        self._job = job
        self._changed.notify_all()

    def _update(self, **members: Any) -> None:
        with self._changed:
            self._set(self._require().model_copy(update=members))

    def _note(self, previous: ReimageState, state: ReimageState, why: str) -> None:
        job = self._require()
        entry = Transition(at=now(), previous=previous, state=state, why=why)
        self._set(job.model_copy(update={"state": state, "history": [*job.history, entry]}))
        log.info("re-imaging %s: %s -> %s: %s", job.operation, previous, state, why)

    def _move(self, state: ReimageState, why: str) -> None:
        with self._changed:
            self._note(self._require().state, state, why)

    def _confirmed(self, why: str) -> None:
        self._update(confirmed_at=now(), reason=None)
        self._move(_S.CONFIRMED, why)
        self._clear_images()

    def _unconfirmed(self, why: str) -> None:
        self._update(reason=why)
        self._move(_S.UNCONFIRMED, why)
        log.error("re-imaging: the new system is NOT CONFIRMED: %s", why)

    def _fail(self, why: str) -> None:
        self._update(reason=why, armed=None)
        self._move(_S.FAILED, why)
        log.error("re-imaging: FAILED: %s", why)

    def _clear_images(self, keep: str | None = None) -> None:
        """Remove images that nothing needs any more."""
        if not self._store.images.is_dir():
            return
        try:
            for directory in self._store.images.iterdir():
                if directory.name != keep:
                    shutil.rmtree(directory)
        except OSError as error:
            # The space is lost, and the attempt is not.
            log.warning("an image that is not needed was not removed: %s", _sentence(error))


def _check(context: Context[Any]) -> None:
    if context.progress.cancelled:
        raise CancelledError("cancelled")


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!")) else f"{text}."
