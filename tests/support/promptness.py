"""Deadlines on a machine that others use: what it did not give in time does not count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TICK_SECONDS = 0.01
_HOPS = 4
"""Processes and threads that one after the other do what is measured; each waits as this one."""


class _Lateness:
    """How much later than asked for a thread was woken, in seconds and all in all."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            time.sleep(_TICK_SECONDS)
            self.seconds += time.monotonic() - begin - _TICK_SECONDS

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def promptly(seconds: float) -> Iterator[None]:
    """Fail if what is done inside takes longer than this on an idle machine.

    A thread beside it measures by how much it is woken too late, and the deadline grows with that:
    on an idle machine by a few milliseconds.
    """
    lateness = _Lateness()
    begin = time.monotonic()
    try:
        yield
        took = time.monotonic() - begin
    finally:
        lateness.stop()
    allowed = seconds + _HOPS * lateness.seconds
    assert took < allowed, f"took {took:.2f} s; {allowed:.2f} s were allowed"
