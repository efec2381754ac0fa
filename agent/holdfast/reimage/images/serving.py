"""How fast images are given away: within a rate for all, and not while the datastore waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.node.paths.files import read_text

_PRESSURE = Path("/proc/pressure/io")
_INTERVAL_SECONDS = 0.25
"""How often the kernel is asked; its own figures change twice a second at the most."""
_BURST_SECONDS = 0.25


class ServingPace:
    """The rate and the pressure that all downloads share. For one event loop."""

    def __init__(
        self,
        bytes_per_second: float,
        pressure_percent: float,
        pressure: Path = _PRESSURE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = bytes_per_second
        self._percent = pressure_percent
        self._file = pressure
        self._clock = clock
        self._next = 0.0
        """When the next bytes may be read."""
        self._asked, self._stalled, self._too_much = 0.0, 0, False

    async def take(self, count: int) -> None:
        """Wait until `count` more bytes may be read."""
        while self._pressed():  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(_INTERVAL_SECONDS)
        now = self._clock()
        begin = max(self._next, now - _BURST_SECONDS)
        self._next = begin + count / self._rate
        if self._next > now:
            await asyncio.sleep(self._next - now)

    def _pressed(self) -> bool:
        """Whether some task waited for I/O during too much of the last moment."""
        if self._percent >= 100:
            return False
        now = self._clock()
        passed = now - self._asked
        if passed >= _INTERVAL_SECONDS:
            # A kernel that does not report it (before 4.20, or without `psi=1`) holds nothing back.
            stalled = _stalled(read_text(self._file) or "")
            share = (stalled - self._stalled) / 1e4 / passed
            self._too_much = bool(self._asked) and share > self._percent
            self._asked, self._stalled = now, stalled
        return self._too_much


def _stalled(text: str) -> int:
    """Return for how many microseconds some task was stalled so far."""
    for field in next((line for line in text.splitlines() if line[:5] == "some "), "").split():
        if field.startswith("total="):
            return int(field[6:])
    return 0
