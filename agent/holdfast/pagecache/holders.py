"""Who keeps pages of a file in memory: processes that map it, and whether they lock it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

Inode = tuple[int, int]
"""Device number and inode number."""

# address perms offset major:minor inode pathname (proc_pid_maps(5))
_MAPPING = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+)", re.MULTILINE
)
_LOCKED = re.compile(rb"^Locked: +([0-9]+) kB$", re.MULTILINE)


def holders(inodes: Iterable[Inode]) -> dict[Inode, list[str]]:
    """Describe who maps each of these files, for example `mapped by java[812]`.

    Only what this user may see is found: other users' processes need CAP_SYS_PTRACE.
    """
    wanted = frozenset(inodes)
    found: dict[Inode, list[str]] = defaultdict(list)
    if not wanted:
        return found
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            mapped = {inode for inode, _ in _mappings(process / "maps")} & wanted
            if not mapped:
                continue
            locked = {inode for inode, text in _mappings(process / "smaps") if _is_locked(text)}
            name = (process / "comm").read_bytes().strip().decode(errors="replace")
        except OSError:
            # It ended, or it is not ours to look into.
            continue
        for inode in mapped:
            word = "locked" if inode in locked else "mapped"
            found[inode].append(f"{word} by {name}[{process.name}]")
    return found


def _mappings(path: Path) -> Iterator[tuple[Inode, bytes]]:
    text = path.read_bytes()
    matches = list(_MAPPING.finditer(text))
    # A kernel thread has no mappings at all, and then the second list is the longer one.
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        major, minor, inode = match.groups()
        device = os.makedev(int(major, 16), int(minor, 16))
        end = following.start() if following else len(text)
        yield (device, int(inode)), text[match.end() : end]


def _is_locked(text: bytes) -> bool:
    match = _LOCKED.search(text)
    return match is not None and int(match[1]) > 0
