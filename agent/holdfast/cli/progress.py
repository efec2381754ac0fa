"""Shows how far an operation is: a live bar for a person, plain lines for a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from holdfast.cli import units
from holdfast.cli.output import Output, console_for

if TYPE_CHECKING:
    from rich.progress import TaskID

    from holdfast.operations.model import Operation, ProgressReport

# In a log, a line a second is right for a short run and a flood for a long one.
_EACH_SECOND_FOR = 60.0
_LATER_SECONDS = 10.0


class View(Protocol):
    """Something that shows updates between its enter and its exit."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, operation: Operation) -> None:
        """Show this state of the operation."""


def view_for(out: Output) -> View:
    """Choose how to show progress on this standard error."""
    if out.quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


def verb(kind: str) -> str:
    """Answer the last part of a kind, which says what is done: `load` of `pagecache.load`."""
    return kind.rpartition(".")[2]


def amounts(report: ProgressReport) -> str:
    """Write what was done of what is expected, in bytes or else in files."""
    if report.bytes_done or report.bytes_expected:
        done = units.size(report.bytes_done)
        if report.bytes_expected is None:
            return done
        return f"{done} of {units.size(report.bytes_expected)}"
    if report.files_done or report.files_expected:
        return files(report)
    return ""


def files(report: ProgressReport) -> str:
    """Write files done of files expected."""
    done = units.count(report.files_done)
    if report.files_expected is None:
        return f"{done} files"
    return f"{done} of {units.counted(report.files_expected, 'file')}"


def share(report: ProgressReport) -> tuple[int, int] | None:
    """Answer how much of how much is done, in bytes or else in files; None while nobody knows."""
    if report.bytes_expected:
        return report.bytes_done, report.bytes_expected
    if report.files_expected and report.bytes_expected is None:
        return report.files_done, report.files_expected
    return None


def describe(operation: Operation) -> str:
    """Say on one line how far an operation is."""
    report = operation.progress
    parts = [f"{verb(operation.kind)}: {report.phase or operation.state.value}"]
    if amount := amounts(report):
        parts.append(amount)
    if (known := share(report)) is not None:
        parts.append(units.percent(*known))
    if report.bytes_per_second:
        parts.append(units.rate(report.bytes_per_second))
    if report.eta_seconds is not None and not operation.state.final:
        parts.append(f"{units.duration(report.eta_seconds)} left")
    if report.current and not operation.state.final:
        parts.append(units.printable(units.shortened(report.current)))
    return ", ".join(parts)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, operation: Operation) -> None:
        """Show nothing."""


class Lines:
    """A line on standard error about every second, later every ten."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._next = self._begin
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, operation: Operation) -> None:
        """Print a line if it is time for one and it says something new."""
        now = time.monotonic()
        # A little early is on time: updates come each second, and not to the millisecond.
        if operation.state.final or now < self._next - 0.2:
            return
        if operation.state.value == "queued" and now < self._begin + 1.0:
            return  # as every operation is at first; it only tells something when it lasts
        line = describe(operation)
        if line == self._last:
            return
        print(line, file=sys.stderr, flush=True)
        self._last = line
        step = 1.0 if now - self._begin < _EACH_SECOND_FOR else _LATER_SECONDS
        self._next = now + step


class Bar:
    """A live bar on the terminal, gone once the operation has ended."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[text]}", markup=False),
            console=console_for(sys.stderr),
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, operation: Operation) -> None:
        """Move the bar."""
        report = operation.progress
        phase = report.phase or operation.state.value
        if self._task is None:
            self._task = self._progress.add_task(verb(operation.kind), text="")
        if phase != self._phase:
            self._progress.reset(self._task)
            self._phase = phase
        known = share(report)
        left = [] if known is None else [units.percent(*known)]
        left.append(amounts(report))
        if report.bytes_per_second:
            left.append(units.rate(report.bytes_per_second))
        if report.eta_seconds is not None:
            left.append(f"{units.duration(report.eta_seconds)} left")
        if report.current:
            left.append(units.printable(units.shortened(report.current, 30)))
        self._progress.update(
            self._task,
            description=f"{verb(operation.kind)}: {phase}",
            completed=known[0] if known else 0,
            total=known[1] if known else None,
            text="  ".join(text for text in left if text),
        )
