"""Lays out tables and text for a terminal: no line is wider than it, and no word is broken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_GAP = 2  # between columns
_BOUNDLESS = 1 << 30  # cells of a line in a pipe
_FOLD_WIDTH = 16
_HANG = 2  # what continues a line or a row is indented by this
_WORDS = re.compile(r"( *)([^ ]+)")
_STEPS = re.compile(r"[^/,]*[/,]+|[^/,]+")

Line = list[tuple[str, str]]
"""Pieces of a line: text, and the style that it has on a terminal."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Where the terminal is too narrow, columns with a rank are left out, the highest first. Those
    without one stay: if they do not fit beside each other, each row continues on further lines.
    """

    name: str
    right: bool = False
    rank: int = 0
    text: bool = False
    """Long text, which is wrapped."""
    least: int = _FOLD_WIDTH
    """Text is not wrapped into fewer cells than this."""


def column(given: Column | str) -> Column:
    """Return a column; a name that begins with `>` is set to the right, one with `~` is text."""
    if isinstance(given, Column):
        return given
    return Column(given.lstrip(">~"), right=given.startswith(">"), text=given.startswith("~"))


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - most text is ASCII

    return cell_len(text)


def wrap(text: str, width: int, *, hang: int = 0, whole: bool = False) -> list[str]:
    """Break a line between words, what continues it indented by `hang` cells.

    A word that is too long for a line is broken after a slash or a comma, and elsewhere
    only if that is not enough; unless it should stay `whole`, and is then wider than the line.
    """
    if cells(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    for gap, word in _WORDS.findall(text):
        if not (lines or line) or cells(line + gap + word) <= width:
            line += gap + word  # an indentation is kept
        else:
            lines.append(line)
            line = _indented(word, hang, width)
        while not whole and cells(line) > width:
            head, rest = _broken(line, width)
            if head.strip():
                lines.append(head.rstrip())
            line = _indented(rest, hang, width)
    return [*lines, line] if line.strip() or not lines else lines


def _indented(word: str, hang: int, width: int) -> str:
    """Indent what continues a line, by less where the word would not fit otherwise."""
    longest = max(map(cells, _STEPS.findall(word)), default=0)
    return " " * max(0, min(hang, width - longest)) + word


def _broken(line: str, width: int) -> tuple[str, str]:
    """Split a line that is too wide in its last word."""
    at = line.rindex(" ") + 1 if " " in line else 0
    head, word = line[:at], line[at:]
    for step in _STEPS.findall(word):
        if cells(head + step) > width:
            break
        head += step
        word = word[len(step) :]
    if len(head) > at or head.strip():
        return head, word
    while word and cells(head + word[0]) <= width:
        head, word = head + word[0], word[1:]
    return (head, word) if len(head) > at else (head + word[:1], word[1:])


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    texts: Sequence[str]
    styles: Sequence[str]
    """A style for each text."""
    notes: Sequence[str] = ()
    """Lines that belong to the row, below it."""


class Layout:
    """Columns arranged for a width: beside each other, or on several lines for each row."""

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[Row], width: int | None, *, header: bool
    ) -> None:
        self._columns = columns
        self._width = _BOUNDLESS if width is None else width
        all_texts = [[row.texts[number] for row in rows] for number in range(len(columns))]
        if header:
            for column, texts in zip(columns, all_texts, strict=True):
                texts.append(column.name.upper())
        self._natural = [max(map(cells, texts), default=0) for texts in all_texts]
        self._least = [
            self._least_width(column, texts)
            for column, texts in zip(columns, all_texts, strict=True)
        ]
        filled = [any(row.texts[number] for row in rows) for number in range(len(columns))]
        self._lines = self._arranged(filled)
        self._widths = self._shared_out()

    def row(self, row: Row) -> Iterator[Line]:
        """Yield the lines of a row."""
        for number, line in enumerate(self._lines):
            texts = [self._wrapped(row, each) for each in line]
            for part in range(max(map(len, texts), default=0)):
                pieces: Line = [(" " * _HANG, "")] if number else []
                for each, parts in zip(line, texts, strict=True):
                    text = parts[part] if part < len(parts) else ""
                    pieces += self._cell(each, text, row.styles[each])
                if any(text.strip() for text, _ in pieces):
                    yield _stripped(pieces)
        for note in row.notes:
            line_of_note = " " * (2 * _HANG) + note
            for text in wrap(line_of_note, self._width, hang=2 * _HANG):
                yield [(text, "dim")]

    def _wrapped(self, row: Row, each: int) -> list[str]:
        return wrap(row.texts[each], self._widths[each])

    def _cell(self, each: int, text: str, style: str) -> Line:
        gap = " " * (self._widths[each] - cells(text))
        pieces = (
            [(gap, ""), (text, style)] if self._columns[each].right else [(text, style), (gap, "")]
        )
        return [*pieces, (" " * _GAP, "")]

    def _least_width(self, column: Column, texts: Iterable[str]) -> int:
        natural = max(map(cells, texts), default=0)
        if not column.text:
            return natural
        words = (step for text in texts for word in text.split() for step in _STEPS.findall(word))
        return min(natural, max([column.least, *map(cells, words)]))

    def _arranged(self, filled: Sequence[bool]) -> list[list[int]]:
        """Choose which columns are shown, and on which line of a row."""
        shown = list(range(len(self._columns)))
        if self._needed(shown) <= self._width:
            return [shown]
        shown = [each for each in shown if filled[each]] or shown[:1]
        left_out: list[int] = []
        while self._needed(shown) > self._width:
            each = max(reversed(shown), key=lambda each: self._columns[each].rank)
            if self._columns[each].rank == 0:
                return self._folded(shown, left_out)
            shown.remove(each)
            left_out.append(each)
        return [shown]

    def _folded(self, shown: Sequence[int], left_out: Sequence[int]) -> list[list[int]]:
        """Put columns on several lines, and what was left out where it fits."""
        lines: list[list[int]] = [[]]
        for each in shown:
            if lines[-1] and self._needed([*lines[-1], each]) > self._room(len(lines) - 1):
                lines.append([])
            lines[-1].append(each)
        for each in reversed(left_out):
            for number, line in enumerate(lines):
                longer = sorted([*line, each])
                if number and self._needed(longer) <= self._room(number):
                    lines[number] = longer
                    break
        return lines

    def _shared_out(self) -> list[int]:
        """Give text what its line has to spare."""
        widths = list(self._natural)
        for number, line in enumerate(self._lines):
            spare = self._room(number) - self._needed(line)
            for each in line:
                widths[each] = self._least[each]
                if self._columns[each].text or spare < 0:
                    widths[each] = max(1, min(self._natural[each], widths[each] + spare))
                    spare -= widths[each] - self._least[each]
        return widths

    def _needed(self, line: Sequence[int]) -> int:
        return sum(self._least[each] for each in line) + _GAP * (len(line) - 1)

    def _room(self, number: int) -> int:
        return self._width - (_HANG if number else 0)


def lay_out(
    columns: Sequence[Column], rows: Sequence[Row], width: int | None, *, header: bool = True
) -> Iterator[Line]:
    """Yield the lines of a table that is at most `width` cells wide; None for any width."""
    layout = Layout(columns, rows, width, header=header)
    if header:
        names = [column.name.upper() for column in columns]
        yield from layout.row(Row(names, ["bold"] * len(names)))
    for row in rows:
        yield from layout.row(row)


def _stripped(pieces: Line) -> Line:
    """Remove spaces from the end of a line."""
    kept = list(pieces)
    while kept and not kept[-1][0].strip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(), kept[-1][1])
    return kept
