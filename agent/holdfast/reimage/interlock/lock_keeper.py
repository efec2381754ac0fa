"""Keeps the fleet's lock as long as it has to be held, and no longer, whatever process ends when.

That the lock may be held is on the data volume before the first request goes out. From then on the
state of the attempt determines whether it has to be held, and a thread releases it if not, in this
process or in a later one, in this system or in the next. `should_hold` is the whole rule.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from holdfast.operations.model import Timestamp, now
from holdfast.reimage.attempt import Attempt
from holdfast.reimage.interlock.fleet_lock import Answer, FleetLock, Verdict
from holdfast.reimage.interlock.models import FleetLockReport
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job
from holdfast.storage.atomic_files import make_directory, replace_file
from holdfast.text.wording import sentence_of

log = logging.getLogger(__name__)

_S = ReimageState
_GOING_DOWN = timedelta(seconds=120)
"""After the order the machine may still be on its way down, whatever the daemon thinks."""
_HELD_STATES = frozenset({_S.REBOOTING, _S.BOOTED, _S.UNCONFIRMED, _S.UNKNOWN})
_BEFORE_STATES = frozenset({_S.STAGING, _S.STAGED, _S.ARMED})
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
_POLL_SECONDS = 5.0

Record = Callable[[Mapping[str, Any]], None]
"""Writes a line to the audit log."""


class HeldLock(BaseModel, defer_build=True):
    """The file: a lock that was asked for, and not yet released."""

    url: str = Field(max_length=4096)
    id: str = Field(pattern=r"^[A-Za-z0-9.-]{1,128}$")
    group: str = Field(pattern=r"^[A-Za-z0-9.-]{1,128}$")
    operation: str
    since: Timestamp


def should_hold(job: Job | None, lock: HeldLock, *, boot_id: str) -> bool:
    """Whether a lock that may be held has to stay so, by the state of the attempt alone.

    From the order to reboot on, until the new system is confirmed or the old one is proven to run.
    A lock that was kept from an earlier attempt, whose system was not confirmed, stays while
    another one is prepared.
    """
    if job is None:
        return False
    if job.state in _HELD_STATES:
        return True
    if job.state not in _BEFORE_STATES:
        return False
    if job.boot_id not in (None, boot_id):
        return True  # after a boot it is not known yet which system runs
    if job.operation != lock.operation:
        return job.unsettled
    ordered = job.rebooted_at is not None and job.boot_id == boot_id
    return ordered and job.rebooted_at is not None and now() - job.rebooted_at < _GOING_DOWN


class LockKeeper:
    """The lock of this node. `lock` is None where the settings name no lock manager."""

    def __init__(
        self, attempt: Attempt, state_dir: Path, lock: FleetLock | None, record: Record
    ) -> None:
        self._attempt = attempt
        self._file = state_dir / "reimage" / "fleet-lock.json"
        self._lock = lock
        self._record = record
        self._asking = False
        self._held: HeldLock | None = None
        self._damage: str | None = None
        self._problem: str | None = None
        self._busy = threading.Lock()
        """Held by the thread that talks to the lock manager."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet-lock", daemon=True)

    def load(self) -> None:
        """Read what the last process left."""
        try:
            self._held = HeldLock.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (ValidationError, OSError) as error:
            why = sentence_of(error) if isinstance(error, OSError) else "it cannot be understood."
            self._damage = (
                f"{self._file}: {why} Whether the fleet's lock is held is not known; release it at "
                "the lock manager, and remove the file."
            )
            log.error("re-imaging: %s", self._damage)

    def start(self) -> None:
        """Begin to release what need not be held."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End within about `seconds`."""
        self._stopping.set()
        with self._attempt.lock:
            self._attempt.lock.notify_all()
        self._thread.join(seconds)

    @property
    def configured(self) -> bool:
        """Whether there is a lock to ask for."""
        return self._lock is not None

    @property
    def held(self) -> bool:
        """Whether the lock is held, or may be."""
        return self._held is not None or self._damage is not None

    @property
    def damage(self) -> str | None:
        """Why it is not known whether the lock is held, as a sentence."""
        return self._damage

    def report(self) -> FleetLockReport | None:
        """Return the lock that may be held."""
        held = self._held
        if held is None:
            return None
        return FleetLockReport(**held.model_dump(), problem=self._problem)

    def acquire(self, operation: str) -> Answer:
        """Ask for the lock once, and hold it until `settle`. Raises `OSError` if that is not kept.

        An answer that did not arrive counts as a lock that may be held.
        """
        lock = self._lock
        if lock is None:
            raise RuntimeError("there is no lock manager to ask")
        if not lock.id:
            return Answer(
                Verdict.NO,
                "This node has no id to ask for the fleet's lock with: its data volume is missing, "
                "or `node-id` on it cannot be read. Set `reimage.fleet_lock.id`, or see the log.",
            )
        with self._busy:
            self._asking = True
            earlier = self._held
            if earlier is not None and self._differs(earlier):
                return self._foreign(earlier)
            if earlier is None:
                self._keep(
                    HeldLock(
                        url=lock.url, id=lock.id, group=lock.group, operation=operation, since=now()
                    )
                )
            answer = lock.acquire()
            self._audit("pre-reboot", lock, answer)
            if answer.verdict is Verdict.NO and earlier is None:
                self._forget()
            return answer

    def ordered(self, operation: str) -> None:
        """Note that the reboot of an attempt is ordered under the lock. Raises `OSError`."""
        with self._busy:
            if self._held is not None and self._held.operation != operation:
                self._keep(self._held.model_copy(update={"operation": operation}))

    def settle(self) -> None:
        """Have the state of the attempt decide from now on."""
        self._asking = False
        with self._attempt.lock:
            self._attempt.lock.notify_all()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            wait = _POLL_SECONDS
            try:
                answer = self._release()
            except OSError as error:
                log.error("re-imaging: the fleet's lock: %s", sentence_of(error))
                answer = Answer(Verdict.UNKNOWN, sentence_of(error))
            if answer is None or answer.verdict is Verdict.YES:
                pause = _FIRST_PAUSE
                self._attempt.wait(wait)
                continue
            # Not all nodes of a fleet at the same moment.
            wait = max(pause, answer.retry_after or 0) * random.uniform(1.0, 1.5)  # noqa: S311
            pause = min(_LAST_PAUSE, 2 * pause)
            self._stopping.wait(wait)

    def _release(self) -> Answer | None:
        """Release the lock if it need not be held; None if there is nothing to do."""
        with self._busy:
            held = self._held
            if held is None or self._asking or self._attempt.problem is not None:
                return None
            if should_hold(self._attempt.job, held, boot_id=self._attempt.boot_id):
                return None
            lock = self._lock
            if lock is None or self._differs(held):
                answer = self._foreign(held)
            else:
                answer = lock.release()
                if answer.verdict is Verdict.YES or answer.detail != self._problem:
                    self._audit("steady-state", lock, answer)
            if answer.verdict is Verdict.YES:
                self._forget()
                self._problem = None
            elif self._problem != answer.detail:
                self._problem = answer.detail
                log.error("re-imaging: the fleet's lock is not released: %s", answer.detail)
            return answer

    def _differs(self, held: HeldLock) -> bool:
        lock = self._lock
        return lock is None or (lock.url, lock.id, lock.group) != (held.url, held.id, held.group)

    def _foreign(self, held: HeldLock) -> Answer:
        """Refuse: a data volume does not choose whom this machine speaks to."""
        return Answer(
            Verdict.UNKNOWN,
            f"A lock is recorded for {held.id} in group {held.group} of {held.url}, which is not "
            f"what the settings name; release it there, and remove {self._file}.",
        )

    def _keep(self, held: HeldLock) -> None:
        make_directory(self._file.parent)
        replace_file(self._file, held.model_dump_json(indent=1).encode() + b"\n")
        self._held = held

    def _forget(self) -> None:
        self._file.unlink(missing_ok=True)
        self._held = None

    def _audit(self, what: str, lock: FleetLock, answer: Answer) -> None:
        log.info("re-imaging: %s of %s: %s", what, lock.id, answer.detail)
        self._record(
            {
                "event": "fleet-lock",
                "call": what,
                "id": lock.id,
                "group": lock.group,
                "answer": answer.verdict.name.lower(),
                "detail": answer.detail,
            }
        )
