"""What files of sysctl.d(5) set a sysctl to, with patterns and exclusions from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_PATTERN = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_ALTERNATIVES = 256


@dataclass(frozen=True)
class FileSetting:
    """A line that sets a sysctl."""

    file: Path
    value: str
    pattern: str = ""
    """As the file has it; empty where the file names the sysctl itself."""


class SysctlFiles:
    """The lines of all files, in the order in which systemd-sysctl(8) reads them.

    A pattern sets what no file names by itself: neither with a value nor, after a `-` and without
    a value, to exclude it.
    """

    def __init__(self, files: Iterable[tuple[Path, Iterable[str]]]) -> None:
        self._named: dict[tuple[str, ...], list[FileSetting]] = {}
        self._patterns: list[tuple[Sequence[tuple[str, ...]], FileSetting]] = []
        self._excluded: set[tuple[str, ...]] = set()
        for file, lines in files:
            for line in lines:
                self._take(file, line)

    def of(self, path: tuple[str, ...]) -> list[FileSetting]:
        """Return what sets the sysctl of this path below /proc/sys."""
        named = self._named.get(path, [])
        if named or path in self._excluded:
            return named
        return [
            setting
            for alternatives, setting in self._patterns
            if any(_matches(path, pattern) for pattern in alternatives)
        ]

    def _take(self, file: Path, line: str) -> None:
        if not line or line.startswith(("#", ";")):
            return
        name, equals, value = line.partition("=")
        # A - means that errors do not matter, or alone that patterns do not set this one.
        key = name.strip().removeprefix("-").strip()
        path = _path(key)
        if not equals:
            if line.startswith("-"):
                self._excluded.add(path)
        elif _PATTERN.search(key):
            alternatives = [_path(expanded) for expanded in _expanded(key)]
            self._patterns.append((alternatives, FileSetting(file, value.strip(), key)))
        else:
            self._named.setdefault(path, []).append(FileSetting(file, value.strip()))


def _path(key: str) -> tuple[str, ...]:
    """Split a name: its first separator, a dot or a slash, separates."""
    separator = re.search(r"[./]", key)
    if separator is not None and separator[0] == "/":
        return tuple(part for part in key.split("/") if part)
    return tuple(part.replace("/", ".") for part in key.split("."))


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether each part matches: * does not match a separator."""
    return len(path) == len(pattern) and all(map(fnmatchcase, path, pattern))


def _expanded(key: str) -> list[str]:
    """Write out alternatives in braces."""
    done: list[str] = []
    waiting = [key]
    while waiting and len(done) + len(waiting) <= _MOST_ALTERNATIVES:
        pattern = waiting.pop()
        match = _BRACES.search(pattern)
        if match is None:
            done.append(pattern)
        else:
            waiting += [
                f"{pattern[: match.start()]}{word}{pattern[match.end() :]}"
                for word in match[1].split(",")
            ]
    return done
