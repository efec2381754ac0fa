"""What keeps the daemon from its work, observed in a thread of its own.

Probing a root is file I/O, and a volume that hangs (a dead network mount, a stuck FUSE server)
blocks the thread that probes it. No thread that serves requests does: it asks for a new
observation, waits for it a moment, and otherwise returns the last one and its age.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

STALE_SECONDS = 5.0
"""An observation that takes longer means that storage does not answer."""


class Readiness:
    """The last observation, and the thread that makes the next. Methods are for any thread."""

    def __init__(
        self,
        observe: Callable[[], Sequence[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe` returns sentences on what is wrong, and may block."""
        self._observe = observe
        self._clock = clock
        self._lock = threading.Lock()
        self._reasons: Sequence[str] = ()
        self._observed: float | None = None
        self._begun: float | None = None
        """When the observation under way was started; None while there is none."""
        self._waiting: list[Callable[[], None]] = []
        """For the next observation: that under way may have seen the state before they asked."""

    def reasons(self) -> Sequence[str]:
        """Return what was wrong at the last observation, and whether one hangs. Never blocks."""
        with self._lock:
            seconds = self._taken()
            if seconds <= STALE_SECONDS:
                return self._reasons
            age = "" if self._observed is None else f" (the last answer is {self.age():.0f} s old)"
            return [
                f"The roots have not answered for {seconds:.0f} s{age}; check their volumes.",
                *self._reasons,
            ]

    def age(self) -> float:
        """Return how old the last observation is, in seconds; 0 before the first. Never blocks."""
        return 0.0 if self._observed is None else max(0.0, self._clock() - self._observed)

    def refresh(self, done: Callable[[], None]) -> None:
        """Call `done` after an observation that begins from now on, from whatever thread.

        While one hangs, `done` is called at once: those who ask without end do not queue up.
        """
        with self._lock:
            hung = self._taken() > STALE_SECONDS
            if not hung:
                self._waiting.append(done)
                if self._begun is None:
                    self._begun = self._clock()
                    threading.Thread(target=self._run, name="readiness", daemon=True).start()
        if hung:
            done()

    def _taken(self) -> float:
        """Return for how long the observation under way has been made; 0 without one."""
        return 0.0 if self._begun is None else self._clock() - self._begun

    def _run(self) -> None:
        """Observe for as long as a caller waits."""
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                self._begun = self._clock() if waiting else None
            if not waiting:
                return
            try:
                reasons = tuple(self._observe())
            except Exception as error:
                log.exception("the roots could not be checked")
                reasons = (f"The roots could not be checked: {type(error).__name__}.",)
            with self._lock:
                self._reasons, self._observed = reasons, self._clock()
            for done in waiting:
                done()
