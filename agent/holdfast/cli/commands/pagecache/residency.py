"""What is in the page cache, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from holdfast.cli.commands.pagecache.groups import show_groups
from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of, show_left_out, show_skipped
from holdfast.cli.terminal.tables import Column
from holdfast.pagecache.residency import PageCacheState, Residency, ResidencyReport

_BAR = 16


def show_state(out: Output, answer: Any) -> None:
    """Print residency: a block for each root or for the path that was asked for."""
    state = PageCacheState.model_validate(answer)
    for number, report in enumerate(state.reports):
        if number:
            out.line()
        _show_report(out, report)
    for root in state.unavailable:
        out.line(f"{units.printable(root.root)}: cannot be inspected: {root.detail}")


def _show_report(out: Output, report: ResidencyReport) -> None:
    total = report.total
    out.line(units.printable(total.path), "bold")
    resident = _resident(total)
    bar = units.bar(resident, total.bytes, 2 * _BAR, unicode=out.unicode)
    out.line(
        f"{bar}  {units.size(resident)} of {units.size(total.bytes)} in memory, "
        f"{units.percent(resident, total.bytes)}"
    )
    more = [units.counted(total.files, "file")]
    for name, value in (
        ("dirty", total.dirty),
        ("being written", total.writeback),
        ("recently evicted", total.recently_evicted),
    ):
        if value or (value is not None and name == "dirty"):
            more.append(f"{units.size(value)} {name}")
    out.line(", ".join(more))
    show_skipped(out, report.skipped, report.left_out)
    show_left_out(out, report.left_out)
    if report.grouped is not None:
        out.line()
        show_groups(out, report.grouped, total)
        return
    if report.directories:
        out.line()
        _show_residency(out, "directory", report.directories, total)
    if report.files:
        out.line()
        _show_residency(out, "file", report.files, total)


def _show_residency(out: Output, what: str, entries: Sequence[Residency], total: Residency) -> None:
    dirty = any(entry.dirty for entry in entries)
    columns: list[Column | str] = [
        Column("size", right=True, rank=1),
        ">in memory",
        Column("share", right=True, rank=3),
        Column("", rank=4),
        *([Column("dirty", right=True, rank=2)] if dirty else []),
        f"~{what}",
    ]
    rows = []
    for entry in entries:
        row = [
            units.size(entry.bytes),
            units.size(_resident(entry)),
            units.percent(_resident(entry), entry.bytes),
            units.bar(_resident(entry), entry.bytes, _BAR, unicode=out.unicode),
        ]
        if dirty:
            row.append(units.size(entry.dirty or 0))
        row.append(_below(name_of(entry), name_of(total)))
        rows.append(row)
    out.table(columns, rows)


def _resident(entry: Residency) -> int:
    """Return what is in memory without the rest of each last page, which is beyond the file."""
    return min(entry.resident, entry.bytes)


def _below(path: str, top: str) -> str:
    """Shorten a path to what lies below `top`."""
    pure = PurePath(path)
    if pure != PurePath(top) and pure.is_relative_to(top):
        return units.printable(str(pure.relative_to(top)))
    return units.printable(path)
