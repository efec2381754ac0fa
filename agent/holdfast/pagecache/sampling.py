"""How much of each root is resident, sampled in the background for metrics."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 60.0
SAMPLE_SHARE = 20
"""A sample that took t seconds is not taken again for this many times t: 5 % of a core at most."""


class ResidencySampler:
    """Measures how many bytes of each root are resident, in the background, while scraped.

    Nothing is sampled without a request. Asking starts a sample if the last one is old, or older
    than an operation that moved pages, and returns the last one.
    """

    def __init__(self, measure: Callable[[], Mapping[str, int]]) -> None:
        self._measure = measure
        self._lock = threading.Lock()
        self._sample: Mapping[str, int] = {}
        self._taken_at: float | None = None
        self._next = self._soonest = 0.0
        self._pages_moved = 0
        self._running = False

    def latest(self, pages_moved: int) -> tuple[Mapping[str, int], float | None]:
        """Return resident bytes by root and the Unix time of the sample; None before the first.

        `pages_moved` is any number that changes when an operation moved pages.
        """
        with self._lock:
            moved = pages_moved != self._pages_moved
            due = time.monotonic() >= (self._soonest if moved else self._next)
            if due and not self._running:
                self._running = True
                self._pages_moved = pages_moved
                threading.Thread(target=self._take, name="residency-sample", daemon=True).start()
            return self._sample, self._taken_at

    def _take(self) -> None:
        # This thread only; the work matters less than anything else on the machine.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        begin = time.monotonic()
        sample: Mapping[str, int] = {}
        taken_at = None
        try:
            sample = self._measure()
            taken_at = time.time()
        except Exception:
            # No figures are better than old ones that look fresh.
            log.exception("residency could not be sampled for the metrics")
        finally:
            end = time.monotonic()
            with self._lock:
                self._sample, self._taken_at = sample, taken_at
                self._soonest = end + SAMPLE_SHARE * (end - begin)
                self._next = max(self._soonest, end + SAMPLE_SECONDS)
                self._running = False
