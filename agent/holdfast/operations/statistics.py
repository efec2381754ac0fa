"""What metrics report about operations, by kind; counted since the process started."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.operations.model import ProgressReport, State
from holdfast.operations.results import Outcome


@dataclass
class KindFigures:
    """Figures of one kind. Times are Unix times, durations seconds."""

    started: int = 0
    finished: Counter[State] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Of those that succeeded."""
    running: int = 0
    progress: ProgressReport = field(default_factory=ProgressReport)
    """The sum over running operations, or the last report of the most recent operation."""
    read_bytes: int = 0
    last_progress: float | None = None
    last_success: float | None = None
    last_duration: float | None = None


class Statistics:
    """Totals of operations that ended; those that run are added when it is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, KindFigures] = {}

    def remember_success(self, kind: str, at: float, seconds: float) -> None:
        """Take over from the record when a kind last succeeded, before this process began."""
        with self._lock:
            figures = self._of(kind)
            figures.last_success, figures.last_duration = at, seconds

    def accepted(self, kind: str) -> None:
        """Count an operation that was accepted, or taken up again at start."""
        with self._lock:
            self._of(kind).started += 1

    def ended(
        self,
        kind: str,
        state: State,
        outcome: Outcome | None = None,
        *,
        progress: ProgressReport | None,
        read_bytes: int,
        last_progress: float | None,
        at: float,
        seconds: float | None,
    ) -> None:
        """Count an operation that ended; `progress` and `seconds` are None if it never ran."""
        with self._lock:
            figures = self._of(kind)
            figures.finished[state] += 1
            if outcome is not None:
                figures.outcomes[outcome] += 1
            figures.read_bytes += read_bytes
            if progress is not None:
                figures.progress, figures.last_progress = progress, last_progress
            if state is State.SUCCEEDED:
                figures.last_success, figures.last_duration = at, seconds

    def snapshot(self, kinds: tuple[str, ...]) -> Mapping[str, KindFigures]:
        """Copy the totals, with zeros for `kinds` that never ran."""
        with self._lock:
            for kind in kinds:
                self._of(kind)
            return {
                kind: KindFigures(
                    started=figures.started,
                    finished=Counter(figures.finished),
                    outcomes=Counter(figures.outcomes),
                    progress=figures.progress,
                    read_bytes=figures.read_bytes,
                    last_progress=figures.last_progress,
                    last_success=figures.last_success,
                    last_duration=figures.last_duration,
                )
                for kind, figures in self._kinds.items()
            }

    def _of(self, kind: str) -> KindFigures:
        return self._kinds.setdefault(kind, KindFigures())


def add_reports(reports: list[ProgressReport]) -> ProgressReport:
    """Add up the figures of several operations; a sum with an unknown part is unknown."""
    if len(reports) == 1:
        return reports[0]

    def total(parts: list[int | None]) -> int | None:
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    return ProgressReport(
        bytes_done=sum(report.bytes_done for report in reports),
        bytes_expected=total([report.bytes_expected for report in reports]),
        files_done=sum(report.files_done for report in reports),
        files_expected=total([report.files_expected for report in reports]),
        bytes_per_second=sum(report.bytes_per_second for report in reports),
    )
