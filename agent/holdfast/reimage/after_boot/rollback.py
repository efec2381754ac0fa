"""Puts the old system back where the new one is not confirmed in time, once, and by itself."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from holdfast.operations.model import (
    Conflict,
    Operation,
    OperationFailed,
    ProgressReport,
    RequestError,
    ShuttingDown,
    UnknownOperation,
    now,
)
from holdfast.reimage.after_boot.confirmation_clock import ConfirmationClock, waits
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.interlock.models import HeldError
from holdfast.reimage.models import ReimageStatus, RollbackRequest, StageRequest
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job
from holdfast.text.wording import sentence_of

log = logging.getLogger(__name__)

ACTOR = "rollback"
_POLL_SECONDS = 1.0
_HELD_SECONDS, _MOST_HELD_SECONDS = 30.0, 300.0
STALLED_SECONDS = 120.0
"""Checks that show no progress for so long are not waited for."""
_S = ReimageState


class Calls(Protocol):
    """What a person would call."""

    def rollback(self, request: RollbackRequest) -> StageRequest:
        """Return what is to be staged. Raises `RequestError`."""

    def arm(self) -> ReimageStatus:
        """Arm. Raises `RequestError`."""

    def reboot(self) -> ReimageStatus:
        """Reboot. Raises `RequestError`."""


class Running(Protocol):
    """The operations."""

    def start(self, kind: str, params: StageRequest, *, actor: str) -> tuple[Operation, bool]:
        """Start one."""

    def get(self, operation_id: str) -> Operation:
        """Return one. Raises `UnknownOperation`."""

    def cancel(self, operation_id: str, *, actor: str) -> Operation:
        """Cancel one."""


class RollbackWatch:
    """Looks whether the time is over, and then does what a person would do."""

    def __init__(
        self,
        attempt: Attempt,
        acting: threading.Lock,
        calls: Calls,
        running: Running,
        kind: str,
        *,
        clock: ConfirmationClock,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._attempt = attempt
        self._acting = acting
        self._calls = calls
        self._running = running
        self._kind = kind
        self._clock = clock
        self._stalled_seconds = stalled_seconds
        self._progress: tuple[ProgressReport, float] | None = None
        """What the checks last showed, and when by the boot clock that was new."""
        self._not_before = 0.0
        """By the boot clock: when a reboot that was held back is asked for again."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollback", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End within about `seconds`."""
        self._stopping.set()
        with self._attempt.lock:
            self._attempt.lock.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.check()
            except (RequestError, OperationFailed, OSError) as error:
                log.error("re-imaging: the rollback cannot continue: %s", sentence_of(error))
            if not self._stopping.is_set():
                self._attempt.wait(_POLL_SECONDS)

    def check(self) -> None:
        """Do the next step, if there is one. Raises `RequestError`, `OSError`."""
        job = self._attempt.job
        if job is None:
            return
        if job.automatic:
            self._go_on(job)
        elif waits(job):
            changes = self._clock.changes(job)
            if changes:
                with self._attempt.lock:
                    job = self._attempt.require()
                    if not waits(job):
                        return
                    self._attempt.update(**changes)
                    job = self._attempt.require()
            if self._clock.overdue(job):
                self._begin(job)

    def _begin(self, job: Job) -> None:
        if job.state is _S.BOOTED:
            if not job.checks and self._progressing(job.operation):
                return
            if self._over(job.operation):
                self._attempt.unconfirmed(f"Not confirmed within {job.request.confirm_seconds} s.")
                return
            # Its checks stand still, or it waits for a person; this is its end.
            self._running.cancel(job.operation, actor=ACTOR)
            return
        if not self._over(job.operation):
            return
        with self._acting, self._attempt.lock:
            job = self._attempt.require()
            if job.state is not _S.UNCONFIRMED or not self._clock.overdue(job):
                return
            # On the disk first, so that nothing can lead to another one.
            self._attempt.update(rollback_begun=now())
        log.error(
            "re-imaging: NOT CONFIRMED within %d s: the old system is put back",
            job.request.confirm_seconds,
        )
        try:
            # As large as the disk: to ask for it was to allow it.
            asked = RollbackRequest(manifest=job.request.manifest, allow_unprotected=True)
            request = self._calls.rollback(asked)
            self._running.start(self._kind, request, actor=ACTOR)
        except (Conflict, ShuttingDown):
            # Its checks are being made again, or this process ends; nothing was started.
            self._attempt.update(rollback_begun=None)
        except (RequestError, OperationFailed) as error:
            self._give_up(f"The automatic rollback was not started: {sentence_of(error)}")

    def _go_on(self, job: Job) -> None:
        if self._clock.boottime() < self._not_before:
            return
        try:
            if job.state is _S.STAGED:
                self._calls.arm()
            elif job.state is _S.ARMED:
                self._calls.reboot()
        except HeldError as error:
            # Not now; a lock that is taken or a window that is closed is no reason to give up.
            pause = max(error.retry_after or 0, _HELD_SECONDS)
            self._not_before = self._clock.boottime() + min(pause, _MOST_HELD_SECONDS)
            log.warning("re-imaging: the rollback waits: %s", error.detail)
        except RequestError as error:
            if self._attempt.state not in (_S.STAGED, _S.ARMED):
                return  # another caller acted on it
            self._attempt.update(automatic=False)
            self._give_up(f"The automatic rollback stopped: {sentence_of(error)}")

    def _progressing(self, operation: str) -> bool:
        """Whether an operation runs, and has shown something new lately."""
        try:
            found = self._running.get(operation)
        except UnknownOperation:
            return False
        if found.state.final:
            return False
        at = self._clock.boottime()
        if self._progress is None or self._progress[0] != found.progress:
            self._progress = (found.progress, at)
        return at - self._progress[1] < self._stalled_seconds

    def _over(self, operation: str) -> bool:
        try:
            return self._running.get(operation).state.final
        except UnknownOperation:
            return True  # its record was cleared away

    def _give_up(self, why: str) -> None:
        reason = self._attempt.require().reason
        both = f"{reason} {why}" if reason else why
        self._attempt.update(rollback_problem=why, reason=both)
        log.error("re-imaging: %s", why)
