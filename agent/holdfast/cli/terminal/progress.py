"""Shows how far an operation is: a live bar for a person, plain lines for a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output, console_for, moves_cursor
from holdfast.cli.terminal.tables import cells
from holdfast.text.shortening import shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.operations.model import Operation, OperationSummary, ProgressReport

# In a log, a line a second is right for a short run and a flood for a long one.
_EACH_SECOND_FOR = 60.0
_LATER_SECONDS = 10.0
_SHORTEST_BAR, _LONGEST_BAR = 8, 32  # cells


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
    return Bar() if moves_cursor(sys.stderr) else Lines()


def verb(kind: str) -> str:
    """Return the last part of a kind, the verb: `load` of `pagecache.load`."""
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
    """Return how much of how much is done, in bytes or else in files; None while nobody knows."""
    if report.bytes_expected:
        return report.bytes_done, report.bytes_expected
    if report.files_expected and report.bytes_expected is None:
        return report.files_done, report.files_expected
    return None


def describe(operation: OperationSummary) -> str:
    """Return one line on the progress of an operation."""
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
        parts.append(units.printable(shortened(report.current)))
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
        """Print a line if one is due and it differs from the last."""
        now = time.monotonic()
        # A little early is on time: updates come each second, and not to the millisecond.
        if operation.state.final or now < self._next - 0.2:
            return
        if operation.state.value == "queued" and now < self._begin + 1.0:
            return  # as every operation is at first; it is worth a line only when it lasts
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
        from rich.live import Live  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415

        self._spinner = Spinner("dots")
        self._operation: Operation | None = None
        self._live = Live(
            get_renderable=self._line,
            console=console_for(sys.stderr),
            refresh_per_second=10,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, operation: Operation) -> None:
        """Move the bar."""
        self._operation = operation
        self._live.refresh()

    def _line(self) -> RenderableType:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._operation is None:
            return self._spinner
        known = share(self._operation.progress)
        # The last cell stays free, so that no terminal breaks the line; two are the spinner's.
        parts = live_parts(self._operation, self._live.console.width - 3)
        shown: list[RenderableType] = [self._spinner]
        for part in parts:
            if isinstance(part, str):
                shown.append(Text(part, no_wrap=True))
            elif known is None:
                shown.append(ProgressBar(total=None, width=part))
            else:
                shown.append(ProgressBar(total=known[1], completed=known[0], width=part))
        line = Table.grid(padding=0)
        pieces: list[RenderableType] = []
        for number, each in enumerate(shown):
            line.add_column(no_wrap=True)
            line.add_column(no_wrap=True)
            pieces += [each, Text(" " if number == 0 else "  ")]
        line.add_row(*pieces[:-1])
        return line


def live_parts(operation: Operation, width: int) -> list[str | int]:
    """Return what fits on a line of `width` cells, most important first, in its order on the line.

    A number is a bar of that many cells. Rate and time left are kept longest; then the share, what
    is done, the bar, the amounts, and the file that is read.
    """
    report = operation.progress
    known = share(report)
    phase = report.phase or operation.state.value
    current = units.printable(shortened(report.current, 30)) if report.current else ""
    left = report.eta_seconds
    parts: list[tuple[int, str | int]] = [
        (3, f"{verb(operation.kind)}: {phase}"),
        (4, _SHORTEST_BAR),
        (2, "" if known is None else units.percent(*known)),
        (5, amounts(report)),
        (0, units.rate(report.bytes_per_second) if report.bytes_per_second else ""),
        (1, "" if left is None else f"{units.duration(left)} left"),
        (6, current),
    ]
    needed = {
        importance: 2 + (part if isinstance(part, int) else cells(part))
        for importance, part in parts
        if part
    }
    chosen: set[int] = set()
    spare = width + 2
    for importance, cost in sorted(needed.items()):
        if cost <= spare:
            chosen.add(importance)
            spare -= cost
    longer = min(spare, _LONGEST_BAR - _SHORTEST_BAR)
    return [
        part + longer if isinstance(part, int) else part
        for importance, part in parts
        if importance in chosen
    ]
