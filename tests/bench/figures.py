"""What a benchmark found: figures by contender, verdicts on targets; printed as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """The figures of one contender, one a round, in the unit of the table's head."""

    contender: str
    values: Sequence[float]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle figure, which a single disturbed round does not move."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Verdict:
    """One target of the project, and what was reached."""

    what: str
    target: str
    figure: str
    met: bool | None
    """None where there was nothing to compare with."""

    @property
    def word(self) -> str:
        """The outcome in one word or two."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


@dataclass
class Section:
    """One benchmark: what it did, in a sentence or two, and what came of it."""

    title: str
    method: str
    unit: str
    series: list[Series] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, contender: str, values: Sequence[float], note: str = "") -> Series:
        """Add a contender's figures, one a round."""
        series = Series(contender, list(values), note)
        self.series.append(series)
        return series

    def markdown(self) -> str:
        """Render the section as it may be pasted into docs/benchmarks.md."""
        lines = [f"### {self.title}", "", self.method, ""]
        if self.series:
            lines += [
                f"| {self.unit} | median | least | most | runs | |",
                "|---|--:|--:|--:|--:|---|",
                *(
                    f"| {s.contender} | {_short(s.median)} | {_short(min(s.values))} "
                    f"| {_short(max(s.values))} | {len(s.values)} | {s.note} |"
                    for s in self.series
                ),
                "",
            ]
        if self.verdicts:
            lines += [
                "| target | wanted | found | |",
                "|---|---|---|---|",
                *(f"| {v.what} | {v.target} | {v.figure} | {v.word} |" for v in self.verdicts),
                "",
            ]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def document(self) -> dict[str, Any]:
        """The same as a JSON document."""
        return asdict(self)


def at_least(what: str, ratio: float | None, wanted: float, *, of: str) -> Verdict:
    """Judge a ratio that should be `wanted` or more; None where the peer is not there."""
    if ratio is None:
        return Verdict(what, f"at least {wanted:g} x {of}", f"{of} is not here", None)
    return Verdict(what, f"at least {wanted:g} x {of}", f"{ratio:.2f} x", ratio >= wanted)


def below(what: str, figure: float, limit: float, unit: str) -> Verdict:
    """Judge a figure that should stay under a limit."""
    return Verdict(
        what, f"under {limit:g} {unit}", f"{_short(figure)} {unit}".rstrip(), figure < limit
    )


def interleave(
    contenders: Mapping[str, Callable[[], T]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[T]]:
    """Run every contender once a round, each round starting with another one.

    What drifts (the device, the host, the temperature) then drifts for all of them alike.
    """
    found: dict[str, list[T]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(contenders[name]())
            say(f"round {number + 1}/{rounds}: {name}: {found[name][-1]}")
    return found


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
