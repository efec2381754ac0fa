"""Turns the counters of a running call into reports: rate, time left, and totals that add up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from holdfast.operations.model import ProgressReport

WINDOW_SECONDS = 5.0
SHORTEST_SECONDS = 0.05  # a rate over less than this is noise
TELLING_SECONDS = 3.0
"""The estimate starts after this time: a rate of the first files, often small, means nothing."""

Rate = Literal["work", "read", "none"]
"""What `bytes_per_second` counts; time left always goes by the work done."""


class Counters(Protocol):
    """What is read of `holdfast._engine.Progress`."""

    @property
    def phase(self) -> str: ...  # noqa: D102
    @property
    def current(self) -> str | None: ...  # noqa: D102
    @property
    def bytes_done(self) -> int: ...  # noqa: D102
    @property
    def bytes_expected(self) -> int | None: ...  # noqa: D102
    @property
    def files_done(self) -> int: ...  # noqa: D102
    @property
    def files_expected(self) -> int | None: ...  # noqa: D102
    @property
    def read_bytes(self) -> int: ...  # noqa: D102
    @property
    def uses_share(self) -> float | None: ...  # noqa: D102


class Meter:
    """Watches the counters of one run. Its methods may be called from any thread."""

    def __init__(
        self,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        *,
        rate: Rate = "work",
    ) -> None:
        self._counters = counters
        self._rate_of = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._begin = clock()
        self._samples: deque[_Sample] = deque([_Sample(self._begin, 0, 0)])
        self._seen: tuple[str, int, int] = ("", 0, 0)
        self._phase = ""
        self.last_change = time.time()
        """When a sample last differed from its predecessor, as a Unix time."""

    @property
    def read_bytes(self) -> int:
        """Bytes of file data read so far."""
        return self._counters.read_bytes

    def sample(self) -> ProgressReport:
        """Take a sample, which the rate is computed from, and report. Call once a second."""
        with self._lock:
            report = self._report(remember=True)
            seen = (report.phase, report.bytes_done, report.files_done)
            if seen != self._seen:
                self._seen, self.last_change = seen, time.time()
            return report

    def report(self) -> ProgressReport:
        """Report what has been done by now."""
        with self._lock:
            return self._report(remember=False)

    def final(self) -> ProgressReport:
        """Report what was done in all, with the mean rate of the whole run."""
        with self._lock:
            report = self._report(remember=False)
            elapsed = self._clock() - self._begin
            done = self._rated(report.bytes_done, self._counters.read_bytes)
            rate = int(done / elapsed) if elapsed > 0 else 0
            final = {"bytes_per_second": rate, "eta_seconds": None, "current": None}
            return report.model_copy(update=final)

    def _report(self, *, remember: bool) -> ProgressReport:
        counters = self._counters
        moment = self._clock()
        phase = counters.phase
        # Done is read before expected: work that is found meanwhile raises expected first.
        bytes_done, files_done = counters.bytes_done, counters.files_done
        bytes_expected = _at_least(counters.bytes_expected, bytes_done)
        files_expected = _at_least(counters.files_expected, files_done)
        sample = _Sample(moment, bytes_done, counters.read_bytes)
        first = self._first(phase, sample)
        elapsed = moment - first.moment
        work = rate = 0.0
        if elapsed >= SHORTEST_SECONDS:
            work = (bytes_done - first.done) / elapsed
            rate = (self._rated(bytes_done, sample.read) - self._rated(*first[1:])) / elapsed
        if remember:
            self._samples.append(sample)
        eta = None
        if bytes_expected is not None and work > 0:
            left = bytes_expected - bytes_done
            if not left or elapsed >= TELLING_SECONDS:
                eta = round(left / work, 1)
        return ProgressReport(
            phase=phase,
            current=counters.current,
            bytes_done=bytes_done,
            bytes_expected=bytes_expected,
            files_done=files_done,
            files_expected=files_expected,
            bytes_per_second=max(0, int(rate)),
            # Read after what is expected: it is known before that.
            expected_hits=counters.uses_share,
            eta_seconds=eta,
        )

    def _rated(self, done: int, read: int) -> int:
        """Return how much of the work a rate is of."""
        return {"work": done, "read": read, "none": 0}[self._rate_of]

    def _first(self, phase: str, sample: _Sample) -> _Sample:
        """Forget what is too old, or of another phase; return the oldest sample that counts."""
        samples = self._samples
        last = samples[-1]
        if phase != self._phase or sample.done < last.done:
            # The rate of one phase does not predict the next, which may count from zero.
            self._phase = phase
            samples.clear()
            samples.append(last._replace(done=min(last.done, sample.done)))
        while len(samples) > 1 and samples[1].moment <= sample.moment - WINDOW_SECONDS:
            samples.popleft()
        return samples[0]


class _Sample(NamedTuple):
    """How far the work was at a moment of the clock."""

    moment: float
    done: int
    read: int


def _at_least(expected: int | None, done: int) -> int | None:
    # A file that grew while it was read makes more than was expected; both stay true this way.
    return None if expected is None else max(expected, done)
