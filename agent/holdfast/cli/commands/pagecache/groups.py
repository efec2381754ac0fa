"""Residency by what files are to their datastore, as a person reads it."""

from __future__ import annotations

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of
from holdfast.cli.terminal.tables import Column
from holdfast.pagecache.residency import GroupedResidency, Residency, ResidencyGroup, RestOfGroups

_BAR = 16
_OTHER = "other"


def show_groups(out: Output, grouped: GroupedResidency, total: Residency) -> None:
    """Print the groups of a report as a table, the others in one row, and what has no name."""
    what = grouped.by.replace("-", " ")
    several = len({group.path for group in grouped.groups if group.name is not None}) > 1
    columns: list[Column | str] = [
        ">in memory",
        Column("of all", right=True, rank=2),
        Column("", rank=5),
        Column("size", right=True, rank=1),
        Column("files", right=True, rank=4),
        Column("store", rank=3),
        f"~{what}",
        *([Column("in", rank=6)] if several else []),
    ]
    rows = []
    for group in grouped.groups:
        row = [*_figures(out, group, total), group.store or "", _label(group, what)]
        rows.append([*row, _place(group, total)] if several else row)
    rest = grouped.rest
    if rest.groups:
        row = [*_figures(out, rest, total), "", f"{units.count(rest.groups)} more"]
        rows.append([*row, ""] if several else row)
    out.table(columns, rows)
    for note in grouped.notes:
        out.line(units.printable(note))
    if rest.groups:
        out.hint("to name them all: --top 10000")


def _figures(out: Output, group: ResidencyGroup | RestOfGroups, total: Residency) -> list[str]:
    return [
        units.size(group.resident),
        units.percent(group.resident, total.resident),
        units.bar(group.resident, total.resident, _BAR, unicode=out.unicode),
        units.size(group.bytes),
        units.count(group.files),
    ]


def _label(group: ResidencyGroup, what: str) -> str:
    if group.store is None:
        return _OTHER
    if group.kind is not None:
        return units.plain_words(group.kind)
    return f"(no {what})" if group.name is None else units.printable(group.name)


def _place(group: ResidencyGroup, total: Residency) -> str:
    if group.name is None:
        return ""
    path, top = name_of(group), name_of(total)
    return units.printable(path.removeprefix(top).lstrip("/") or ".")
