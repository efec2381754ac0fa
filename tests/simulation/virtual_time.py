"""An event loop whose clock jumps to what comes next: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.SelectSelector):
    """Waits by moving the clock on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("Nothing will ever happen again: the simulation is at a deadlock.")
        self.loop.moment += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs tasks and timers in a fixed order; no sockets, threads or processes."""

    def __init__(self, moment: float) -> None:
        """Begin at a POSIX time."""
        self.moment = moment
        selector = _Jumping()
        super().__init__(selector)
        selector.loop = self
        # POSIX times as floats are not as fine as the monotonic clock that this is made for.
        self._clock_resolution = 1e-3

    def time(self) -> float:
        return self.moment
