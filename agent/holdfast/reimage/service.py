"""Re-imaging as the API sees it: one attempt at a time, from staging to the new system.

The calls here plan the next state and lead to it; `operation.py` is the operation that runs
meanwhile, and `attempt.py` what both of them remember. docs/reimage.md has the states.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast._engine import Progress
from holdfast.capability import STOP_SECONDS, Capability
from holdfast.node.identity import identify
from holdfast.operations.kinds import Kind
from holdfast.operations.model import RequestError, Slug
from holdfast.privileged import Privileged
from holdfast.privileged.boot.models import ArmReport, StatusServer
from holdfast.privileged.trial.models import failures
from holdfast.records.store import LATEST
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.after_boot.confirmation_clock import ConfirmationClock, waits
from holdfast.reimage.after_boot.rollback import STALLED_SECONDS, RollbackWatch, Running
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.calls import Call, check_wishes, key_used
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.interlock.fleet_lock import FleetLock
from holdfast.reimage.interlock.interlock import Interlock, Rules, no_record
from holdfast.reimage.interlock.lock_keeper import LockKeeper, Record
from holdfast.reimage.models import (
    AttemptRequest,
    ConfirmRequest,
    ImagerReport,
    ImageSummary,
    Machine,
    RebootRequest,
    ReimagePlan,
    ReimageStatus,
    RollbackRequest,
    StageRequest,
    StepRequest,
)
from holdfast.reimage.operation import KIND, ReimageOperation
from holdfast.reimage.planning import preflight
from holdfast.reimage.planning.planner import Planner
from holdfast.reimage.planning.trials import Trials
from holdfast.reimage.states import ReimageState
from holdfast.reimage.steps import Steps
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

_S = ReimageState
_NOW = StepRequest()
_ANY = AttemptRequest()
_GO = RebootRequest()


class Reimage(Capability):
    """The attempt of this machine. Methods may be called from any thread, and may block."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        privileged: Privileged,
        imager: Path,
        ca_file: Path | None,
        images: ImageLibrary,
        examiner: PostBootChecks,
        status_server: StatusServer | None,
        degraded: Callable[[], Sequence[str]],
        notes: Callable[[], Sequence[str]] = tuple,
        allow_kexec: bool = False,
        require_lifeboat: bool = False,
        lock: FleetLock | None = None,
        rules: Rules | None = None,
        record: Record = no_record,
        sharing: ImageSharing | None = None,
    ) -> None:
        """`lock` is the fleet's lock manager, `record` writes to the audit log."""
        self.sharing = sharing or ImageSharing()
        self.sharing.offered = self.offered
        self._roots = tuple(roots)
        self._state_dir = state_dir
        self._imager = imager
        self._images = images
        self._examiner = examiner
        self._degraded = degraded
        self._notes = notes
        self._allow_kexec = allow_kexec
        self._require_lifeboat = require_lifeboat
        self._attempt = Attempt(state_dir)
        self._clock = ConfirmationClock(self._attempt.boot_id)
        self._acting = threading.Lock()
        """Held by the thread that changes the boot loader, so that there is one at a time."""
        self._keeper = LockKeeper(self._attempt, state_dir, lock, record)
        self._interlock = Interlock(
            self._attempt, privileged, self._keeper, rules or Rules(), record=record
        )
        self._steps = Steps(
            interlock=self._interlock,
            attempt=self._attempt,
            acting=self._acting,
            privileged=privileged,
            images=images,
            roots=self._roots,
            status_server=status_server,
            ca_file=ca_file,
        )
        self._trials = Trials(self._attempt, images, privileged)
        self._operation = ReimageOperation(
            trials=self._trials,
            attempt=self._attempt,
            acting=self._acting,
            privileged=privileged,
            images=images,
            examiner=examiner,
            describe=self._describe,
            usable=self._usable,
            state_dir=state_dir,
            clock=self._clock,
        )

    def prepare(self) -> None:
        """Read where the last process was; what follows from it, the operation does."""
        self._attempt.load()
        self._keeper.load()

    @contextmanager
    def running(self, operations: Operations) -> Iterator[None]:
        """Keep the fleet's lock and watch over the new system for as long as the block runs."""
        self._keeper.start()
        try:
            rollback = self.watch(operations)
            rollback.start()
            try:
                yield
            finally:
                rollback.stop(STOP_SECONDS)
        finally:
            self._interlock.stop()
            self._keeper.stop(STOP_SECONDS)

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what shows the attempt, what it asks before, and its images."""
        from holdfast.reimage import metrics  # noqa: PLC0415 - for the daemon alone

        del operations
        return (
            metrics.ReimageCollector(self.figures),
            metrics.InterlockCollector(self.interlock_figures),
            metrics.ImageCollector(self.sharing.figures),
        )

    def kinds(self) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of operation: `reimage`, and `reimage.check` to check once more."""
        return self._operation.kinds(self._check)

    def _check(self, params: StageRequest | ConfirmRequest) -> None:
        """Check before an operation is started whether it can be. Raises `RequestError`."""
        if isinstance(params, ConfirmRequest):
            Call("confirm", params).expect(self._attempt.job)
            if self._attempt.state not in (_S.UNCONFIRMED, _S.UNKNOWN):
                raise RequestError(
                    Slug.CONFLICT,
                    f"There is nothing to confirm: the state is `{self._attempt.state}`.",
                )
            return
        self._usable()
        if params.manifest is not None:
            found = self._examiner.proof.exists(params.manifest)
            if params.manifest not in (LATEST, found):
                # It is used after the reboot, when other ids may begin so.
                raise RequestError(
                    Slug.INVALID_REQUEST,
                    f"Name the manifest by its whole id, {found}, or `latest`.",
                    "manifest",
                )
        if self._attempt.store.previous.of(params.descriptor_sha256) is None:
            self._images.check(params)
        check_wishes(params)
        blocked = self._describe().blocked
        if blocked:
            raise RequestError(
                Slug.CONFLICT, f"This machine cannot be re-imaged: {' '.join(blocked)}"
            )

    def watch(self, operations: Running) -> RollbackWatch:
        """Return what puts the old system back by itself; not started."""
        # The operator's own check shows no progress for as long as it may take.
        stalled = max(STALLED_SECONDS, self._examiner.longest_seconds + STALLED_SECONDS)
        return RollbackWatch(
            self._attempt,
            self._acting,
            self,
            operations,
            KIND,
            clock=self._clock,
            stalled_seconds=stalled,
        )

    def figures(self) -> tuple[ReimageState, int, ImagerReport | None]:
        """Return the state, the number of failed checks, and the imager's report. Cheap."""
        with self._attempt.lock:
            job = self._attempt.job
            if job is None:
                return _S.IDLE, 0, None
            return job.state, sum(not check.passed for check in job.checks), job.imager

    def offered(self) -> tuple[Path, bool] | None:
        """Return the directory of the staged image, and whether it is proven; None if it is secret.

        The old system that was kept is this machine's own, with its keys and passwords.
        """
        with self._attempt.lock:
            job = self._attempt.job
            if job is None or job.image is None or job.restores or job.request.mode != "staged":
                return None
            return self._attempt.image_directory(job), job.state is not _S.STAGING

    def interlock_figures(self) -> tuple[bool, bool, Mapping[str, int]]:
        """Return whether the lock is held and a window is open, and how often each gate refused."""
        return self._interlock.figures()

    # Calls that return at once.

    def status(self) -> ReimageStatus:
        """Return where this machine is on its way to another image."""
        with self._attempt.lock:
            job = self._attempt.job
        source = None if job is None or job.image is None else self._source_text(job)
        found = self._describe(job.image if job else None, source, job.request if job else None)
        # Once armed, what is in the way of another arming is this one.
        armed = job is not None and job.armed is not None and job.state.under_way
        blocked = [*self._own_problems(), *(() if armed else found.blocked)]
        trial = job.tried if job else []
        blocked += failures(trial) if job is not None and job.state is _S.STAGED else []
        return ReimageStatus(
            **found.model_dump(exclude={"blocked", "lifeboat"}),
            lifeboat=job.armed.lifeboat if armed and job and job.armed else found.lifeboat,
            blocked=blocked,
            state=job.state if job else _S.IDLE,
            reason=job.reason if job else None,
            operation=job.operation if job else None,
            nonce=job.nonce if job else None,
            image=job.image if job else None,
            fetched=job.fetched if job else [],
            mode=job.request.mode if job else None,
            image_id=identify().image_id,
            carried=list(job.armed.identity) if job and job.armed else [],
            notes=[*self._notes(), *(job.armed.notes if job and job.armed else ())],
            trial=trial,
            checks=job.checks if job else [],
            imager=job.imager if job else None,
            previous=self._attempt.store.previous.found(),
            rollback_of=job.rollback_of if job else None,
            rollback_at=self._clock.due(job) if job else None,
            interlock=self._interlock.report(job),
            history=job.history if job else [],
        )

    def plan(
        self, request: StageRequest, progress: Progress | None = None, *, admin: bool = True
    ) -> ReimagePlan:
        """Return what re-imaging with an image would do, and everything that is in the way.

        Fetches the descriptor and nothing else, unless it is that of the old system that was kept.
        Callers who are not `admin` have it fetched only from sources that the settings list, and do
        not learn the digest of what is there. Raises `RequestError` if the request itself makes no
        sense or is not for this caller, `CancelledError`.
        """
        if self._attempt.store.previous.of(request.descriptor_sha256) is None:
            if not admin and not self._images.restricted:
                raise RequestError(
                    Slug.FORBIDDEN,
                    "The daemon would fetch whatever the URL names, so that this needs the scope "
                    "`admin` unless `reimage.sources` lists where images are fetched from.",
                )
            self._images.check(request)
        check_wishes(request)
        return Planner(
            images=self._images,
            store=self._attempt.store,
            examiner=self._examiner,
            state_dir=self._state_dir,
            describe=self._describe,
            trials=self._trials,
        ).plan(
            request,
            self._own_problems(),
            self._notes(),
            progress or Progress(),
            explain=admin,
        )

    # The steps. `key` is the caller's idempotency key: a call is done once for one key.

    def arm(self, request: StepRequest = _NOW, key: str | None = None) -> ReimageStatus:
        """Have the next boot, and only that one, be the imager's. Idempotent.

        Raises `RequestError`, also with the reason why it was not done; then nothing is armed. A
        dry run answers a state that has what would be written, and what would be carried over.
        """
        self._check_memory(request, key)
        rehearsal = self._steps.arm(request, key)
        return self.status() if rehearsal is None else self._rehearsed(rehearsal)

    def disarm(self, request: AttemptRequest = _ANY, key: str | None = None) -> ReimageStatus:
        """Take the arming back, byte for byte; what was staged stays. Idempotent.

        In state `unknown`, what may be left of it, on the word of the caller; the state stays.
        """
        self._check_memory(request, key)
        self._steps.disarm(request, key)
        return self.status()

    def reboot(self, request: RebootRequest = _GO, key: str | None = None) -> ReimageStatus:
        """Reboot into the imager. Raises `RequestError` unless it is armed and all gates allow it.

        May take as long as the gates do.
        """
        self._check_memory(request, key)
        self._steps.reboot(request, key)
        return self.status()

    def confirm(self, request: ConfirmRequest, key: str | None = None) -> ReimageStatus | None:
        """Take the new system for good; None if its checks have to be made again first.

        Raises `RequestError` if there is no new system, or its first checks are not over.
        """
        self._check_memory(request, key)
        return self.status() if self._steps.confirm(request, key) else None

    def check_unused(self, key: str | None) -> None:
        """Raise `RequestError` if a step was called with this key."""
        job = self._attempt.job
        for call in job.calls if job is not None and key is not None else ():
            if call.key == key:
                raise key_used(call)

    def _check_memory(self, request: AttemptRequest, key: str | None) -> None:
        """Raise `RequestError` where an attempt is meant that is only on a volume that is missing.

        Without the volume it is not known what was done, and the caller may ask again.
        """
        if self._attempt.job is None and (key is not None or request.operation is not None):
            self._usable()

    def _rehearsed(self, report: ArmReport) -> ReimageStatus:
        status = self.status()
        boot = status.boot and status.boot.model_copy(
            update={"loader": report.loader, "entry": report.entry, "files": report.files}
        )
        # The arming's own rights have shown what could not be seen without.
        return status.model_copy(
            update={
                "boot": boot,
                "carried": report.identity,
                "notes": report.notes,
                "trial": report.trial,
                "lifeboat": report.lifeboat,
                "unknown": [],
            }
        )

    def rollback(self, request: RollbackRequest) -> StageRequest:
        """Return what has to be staged to go back to the system that was kept.

        Raises `RequestError` if none was, or if the caller means another attempt.
        """
        self._check_memory(request, None)
        Call("rollback", request).expect(self._attempt.job)
        kept = self._attempt.store.previous.require()
        return StageRequest(
            descriptor=(Path(kept.path) / "descriptor.json").as_uri(),
            descriptor_sha256=kept.descriptor_sha256,
            content=(Path(kept.path) / "image").as_uri(),
            identity=[],
            manifest=request.manifest,
            confirm=request.confirm,
            allow_unprotected=request.allow_unprotected,
        )

    def forget_previous(self) -> None:
        """Remove the system that was kept; there need not be one.

        Raises `RequestError` while it is needed.
        """
        with self._acting, self._attempt.lock:
            job = self._attempt.job
            if job is not None and (job.restores or job.request.save_previous):
                states = (_S.IDLE, _S.CONFIRMED, _S.FAILED, _S.UNCONFIRMED)
                if job.state not in states or waits(job):
                    raise RequestError(
                        Slug.CONFLICT,
                        "The system that was kept may still be needed by what is under way.",
                    )
            try:
                self._attempt.store.previous.forget()
            except OSError as error:
                raise RequestError(Slug.IO_ERROR, sentence_of(error)) from error

    def _describe(
        self,
        image: ImageSummary | None = None,
        source: str | None = None,
        request: StageRequest | None = None,
    ) -> Machine:
        return preflight.describe(
            self._roots,
            self._imager,
            image=image,
            source=source,
            allow_kexec=self._allow_kexec,
            allow_unprotected=request is not None and request.allow_unprotected,
            require_lifeboat=self._require_lifeboat,
        )

    def _source_text(self, job: Job) -> str:
        if job.request.mode == "network" and job.content_url is not None:
            return job.content_url
        return str(self._attempt.image_directory(job) / "image")

    def _own_problems(self) -> list[str]:
        reasons = list(self._degraded())
        if self._attempt.problem is not None:
            reasons.append(self._attempt.problem)
        return reasons

    def _usable(self) -> None:
        """Raise `RequestError` where an attempt could not be remembered."""
        problems = self._own_problems()
        if problems:
            raise RequestError(Slug.UNAVAILABLE, " ".join(problems))
