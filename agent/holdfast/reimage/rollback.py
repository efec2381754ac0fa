"""Puts the old system back where the new one is not confirmed in time, once, and by itself."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from typing import Protocol

from holdfast.operations.model import (
    Conflict,
    Operation,
    OperationFailed,
    RequestError,
    ShuttingDown,
    UnknownOperation,
    now,
)
from holdfast.reimage.attempt import Attempt, sentence
from holdfast.reimage.models import ReimageState, ReimageStatus, RollbackRequest, StageRequest
from holdfast.reimage.store import Job

log = logging.getLogger(__name__)

ACTOR = "rollback"
_LOOK_SECONDS = 1.0
_S = ReimageState


class Calls(Protocol):
    """What a person would call."""

    def rollback(self, request: RollbackRequest) -> StageRequest:
        """Say what is to be staged. Raises `RequestError`."""

    def check(self, params: StageRequest) -> None:
        """Find out whether it can be. Raises `RequestError`."""

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


def deadline(job: Job) -> datetime | None:
    """Say when the old system is put back unless this attempt is confirmed; None if never."""
    waits = job.state in (_S.BOOTED, _S.UNCONFIRMED)
    if job.request.rollback != "automatic" or not waits or job.booted_at is None:
        return None
    if job.rollback_begun is not None:
        return None
    return job.booted_at + timedelta(seconds=job.request.confirm_seconds)


def overdue(job: Job) -> bool:
    """Whether the attempt was to be confirmed by now."""
    at = deadline(job)
    return at is not None and now() >= at


class RollbackWatch:
    """Looks whether the time is over, and then does what a person would do."""

    def __init__(
        self, attempt: Attempt, acting: threading.Lock, calls: Calls, running: Running, kind: str
    ) -> None:
        self._attempt = attempt
        self._acting = acting
        self._calls = calls
        self._running = running
        self._kind = kind
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
                self.look()
            except (RequestError, OperationFailed, OSError) as error:
                log.error("re-imaging: the rollback cannot go on: %s", sentence(error))
            # The time of day may be set meanwhile, so it is looked at again and again.
            if not self._stopping.is_set():
                self._attempt.wait(_LOOK_SECONDS)

    def look(self) -> None:
        """Do the next step, if there is one. Raises `RequestError`, `OSError`."""
        job = self._attempt.job
        if job is None:
            return
        if job.automatic:
            self._go_on(job)
        elif overdue(job):
            self._begin(job)

    def _begin(self, job: Job) -> None:
        if job.state is _S.BOOTED:
            # Its operation still checks, or waits for somebody; this is its end.
            self._running.cancel(job.operation, actor=ACTOR)
            return
        if not self._over(job.operation):
            return
        with self._acting, self._attempt.lock:
            job = self._attempt.require()
            if job.state is not _S.UNCONFIRMED or not overdue(job):
                return
            # On the disk first, so that nothing can lead to another one.
            self._attempt.update(rollback_begun=now())
        log.error(
            "re-imaging: NOT CONFIRMED within %d s: the old system is put back",
            job.request.confirm_seconds,
        )
        try:
            request = self._calls.rollback(RollbackRequest(manifest=job.request.manifest))
            self._calls.check(request)
            self._running.start(self._kind, request, actor=ACTOR)
        except (Conflict, ShuttingDown):
            # Its checks are being made again, or this process ends; nothing was begun.
            self._attempt.update(rollback_begun=None)
        except (RequestError, OperationFailed) as error:
            self._give_up(f"The automatic rollback was not begun: {sentence(error)}")

    def _go_on(self, job: Job) -> None:
        try:
            if job.state is _S.STAGED:
                self._calls.arm()
            elif job.state is _S.ARMED:
                self._calls.reboot()
        except RequestError as error:
            if self._attempt.state not in (_S.STAGED, _S.ARMED):
                return  # somebody else did something about it
            self._attempt.update(automatic=False)
            self._give_up(f"The automatic rollback stopped: {sentence(error)}")

    def _over(self, operation: str) -> bool:
        try:
            return self._running.get(operation).state.final
        except UnknownOperation:
            return True  # its record was cleared away

    def _give_up(self, why: str) -> None:
        reason = self._attempt.require().reason
        told = f"{reason} {why}" if reason else why
        self._attempt.update(rollback_problem=why, reason=told)
        log.error("re-imaging: %s", why)
