"""How long a new system has run without being confirmed, whatever happens to the time of day.

A first boot often begins with a clock that is wrong, which NTP steps by hours. What counts is
CLOCK_BOOTTIME, which nobody sets, added up over boots. The time of day counts only for the time
between boots, and only where it was synchronised at both ends.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from holdfast.operations.model import now
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import ConfirmationWait, Job

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd once it has set the clock."""
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex has anywhere
_KEEP_SECONDS = 30.0
_WAITS = (ReimageState.BOOTED, ReimageState.UNCONFIRMED)


def boottime() -> float:
    """Return seconds since the boot, times of suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def synchronised() -> bool:
    """Whether the kernel or systemd-timesyncd reports that the time of day was synchronised.

    False where neither may be asked.
    """
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: read only
    state = ctypes.CDLL(None).adjtimex(timex)
    return (state >= 0 and state != _TIME_ERROR) or _SYNCHRONISED.exists()


@dataclass(frozen=True)
class ConfirmationClock:
    """The clocks of one boot."""

    boot_id: str
    boottime: Callable[[], float] = boottime
    wall: Callable[[], datetime] = now
    synchronised: Callable[[], bool] = synchronised

    def begin(self, before_seconds: float = 0.0) -> ConfirmationWait:
        """Begin to count, with what is known to have passed already."""
        return ConfirmationWait(
            boot_id=self.boot_id,
            since_seconds=self.boottime(),
            before_seconds=before_seconds,
            synchronised=self.synchronised(),
        )

    def elapsed(self, job: Job) -> float:
        """Return the seconds that certainly passed since the new system was recognised."""
        waiting = job.waiting
        if waiting is None:
            return 0.0
        counted = waiting.before_seconds
        if waiting.boot_id == self.boot_id:
            counted += max(0.0, self.boottime() - waiting.since_seconds)
        if waiting.crossed and waiting.synchronised and self.synchronised():
            counted = max(counted, self._since_booted(job))
        return counted

    def overdue(self, job: Job) -> bool:
        """Whether the attempt was to be confirmed by now."""
        return waits(job) and self.elapsed(job) >= job.request.confirm_seconds

    def due(self, job: Job) -> datetime | None:
        """Return when the old system is put back unless the attempt is confirmed; None if never."""
        if not waits(job):
            return None
        left = max(0.0, job.request.confirm_seconds - self.elapsed(job))
        return (self.wall() + timedelta(seconds=left)).replace(microsecond=0)

    def changes(self, job: Job) -> dict[str, Any]:
        """Return members of the job that are to be remembered now, so that no boot loses them."""
        waiting = job.waiting
        if waiting is None:
            return {"waiting": self.begin(self._before(job))}
        if waiting.boot_id != self.boot_id:
            base = waiting.model_dump() | {"crossed": True}
            return {"waiting": ConfirmationWait(**base | self._from_here(waiting.before_seconds))}
        counted = self.boottime() - waiting.since_seconds
        if not waiting.synchronised and not waiting.crossed and self.synchronised():
            # The time of day of the start was wrong; the present one gives the right one.
            booted = self.wall() - timedelta(seconds=waiting.before_seconds + counted)
            right = waiting.model_copy(update={"synchronised": True})
            return {"booted_at": booted, "waiting": right}
        if counted < _KEEP_SECONDS:
            return {}
        return {
            "waiting": waiting.model_copy(update=self._from_here(waiting.before_seconds + counted))
        }

    def _from_here(self, before_seconds: float) -> dict[str, Any]:
        return {
            "boot_id": self.boot_id,
            "since_seconds": self.boottime(),
            "before_seconds": before_seconds,
        }

    def _before(self, job: Job) -> float:
        """Return what passed for a job of an earlier version, which remembers a time of day only.

        It counts if this boot can have started before: a stepped clock contradicts that.
        """
        passed = self._since_booted(job)
        return passed if 0 <= passed <= self.boottime() else 0.0

    def _since_booted(self, job: Job) -> float:
        if job.booted_at is None:
            return 0.0
        return (self.wall() - job.booted_at).total_seconds()


def waits(job: Job) -> bool:
    """Whether the old system is put back by itself unless the attempt is confirmed."""
    return (
        job.request.rollback == "automatic"
        and job.state in _WAITS
        and job.booted_at is not None
        and job.rollback_begun is None
    )
