"""The mounts this process sees."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of a process's mountinfo, as proc(5) describes it."""

    number: str
    """`major:minor` of the file system; `0:N` for those without a device of their own."""
    root: str
    """The part of the file system that is mounted."""
    point: str
    file_system: str
    source: str
    options: str
    """Of this mount alone."""
    super_options: str
    """Of the file system, the same wherever it is mounted."""


def read_mounts(proc: Path = Path("/proc"), process: str = "self") -> Sequence[Mount]:
    """Return all mounts that a process sees, in the order they were made. Raises `OSError`."""
    return [
        mount
        for line in (proc / process / "mountinfo").read_bytes().splitlines()
        if (mount := _parse(line)) is not None
    ]


def machine_options(mount: Mount, proc: Path = Path("/proc")) -> str:
    """Return the options of a mount and its file system, as mount(8) on the machine shows them.

    A service sees mounts with options of its own: `ProtectSystem=strict` makes nearly all of them
    read-only. Those of the machine's first process count; our own where it does not show its
    mounts, or has another one there.
    """
    try:
        seen = mount_of(Path(mount.point), read_mounts(proc, "1"))
    except OSError:
        seen = None
    if seen is None or (seen.point, seen.number) != (mount.point, mount.number):
        seen = mount
    # As proc(5) has it: what is read-only in either way is read-only.
    lists = [seen.options.split(","), seen.super_options.split(",")]
    access = "ro" if any("ro" in options for options in lists) else "rw"
    rest = [option for options in lists for option in options if option not in ("ro", "rw")]
    return ",".join([access, *dict.fromkeys(rest)])


def mount_of(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that contains `path` (absolute, without symbolic links)."""
    # Of two mounts on one point the later one hides the earlier.
    holders = [mount for mount in mounts if path.is_relative_to(mount.point)]
    return max(
        enumerate(holders),
        key=lambda pair: (len(Path(pair[1].point).parts), pair[0]),
        default=(0, None),
    )[1]


def unescape(field: bytes) -> str:
    """Read a field of mountinfo or fstab, in which blanks and backslashes are octal."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def _parse(line: bytes) -> Mount | None:
    left, dash, right = line.partition(b" - ")
    fields, rest = left.split(b" "), right.split(b" ")
    if not dash or len(fields) < 6 or len(rest) < 3:
        return None
    text = [unescape(field) for field in fields]
    return Mount(
        number=text[2],
        root=text[3],
        point=text[4],
        options=text[5],
        file_system=unescape(rest[0]),
        source=unescape(rest[1]),
        super_options=unescape(rest[2]),
    )
