"""Finds the line and the comment of each value in a TOML file.

The TOML parser of the standard library reports neither. A valid file is split into statements by
the same parser: a statement is the shortest run of lines that parses.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""Keys and, within arrays of tables, numbers from 0."""

_HEADER = re.compile(r"\s*\[")
_MARK = "\0here"
_LONGEST = 200  # lines; nothing in a profile is nearly as long


@dataclass(frozen=True)
class Where:
    """The position of a statement."""

    line: int
    """From 1."""
    comment: str
    """The comment behind it, or else on the lines right above it."""


def locate(text: str) -> dict[Path, Where]:
    """Map each table and value of a valid TOML text to where it stands."""
    found: dict[Path, Where] = {}
    table: Path = ()
    arrays: dict[Path, int] = {}
    above: list[str] = []
    for number, statement in _statements(text.splitlines()):
        stripped = statement.strip()
        if not stripped:
            above = []
            continue
        if stripped.startswith("#"):
            above.append(stripped.lstrip("#").strip())
            continue
        if not _parses(statement):  # longer than anything that is read
            continue
        comment = _comment(statement) or " ".join(above)
        above = []
        if _HEADER.match(statement):
            table = _table(statement, arrays)
            found.setdefault(table, Where(number, comment))
        else:
            for path in _keys(tomllib.loads(statement)):
                found.setdefault(table + path, Where(number, comment))
    return found


def _statements(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    begin = 0
    while begin < len(lines):
        end = begin + 1
        # Only a value may span several lines.
        while end < min(len(lines), begin + _LONGEST) and not _parses("\n".join(lines[begin:end])):
            end += 1
        yield begin + 1, "\n".join(lines[begin:end])
        begin = end


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _table(header: str, arrays: dict[Path, int]) -> Path:
    """Return the path of a header; the last table of each array it leads through is meant."""
    nested: Any = tomllib.loads(f"{header}\n{_key(_MARK)} = 0")
    path: Path = ()
    while _MARK not in nested:
        ((key, nested),) = nested.items()
        path += (key,)
        if isinstance(nested, list):
            arrays[path] = arrays.get(path, -1) + 1
            nested = nested[0]
        if path in arrays:
            path += (arrays[path],)
    return path


def _key(text: str) -> str:
    return '"' + text.replace("\0", "\\u0000") + '"'


def _keys(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _keys(inner, (*path, key))


def _comment(statement: str) -> str:
    """Return the comment behind a statement: what follows the first # that is in no string."""
    whole = tomllib.loads(statement)
    for match in re.finditer("#", statement):
        before = statement[: match.start()]
        if (
            _parses(before)
            and tomllib.loads(before) == whole
            and "\n" not in statement[match.end() :]
        ):
            return statement[match.end() :].strip()
    return ""
