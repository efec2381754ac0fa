"""Counts open files that keep the read-ahead of their device as it was when they were opened.

The kernel copies `read_ahead_kb` into a file when it is opened and looks at the copy ever after.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.node.files import read_text


@dataclass(frozen=True)
class OpenFiles:
    """Regular files open on one file system."""

    files: int
    processes: Mapping[str, int]
    """How many, by `name (pid)`."""

    def told(self, limit: int = 3) -> str:
        """Say it in a few words."""
        top = Counter(self.processes).most_common(limit)
        more = len(self.processes) - len(top)
        names = ", ".join(name for name, _ in top) + (f" and {more} more" if more > 0 else "")
        return f"{self.files} open file{'s' if self.files != 1 else ''} of {names}"


def count_open_files(mount_point: str, proc: Path = Path("/proc")) -> OpenFiles:
    """Count regular files of the file system mounted there that any process has open."""
    try:
        device = Path(mount_point).stat().st_dev
    except OSError:
        return OpenFiles(0, {})
    processes: Counter[str] = Counter()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        count = _count(entry / "fd", device)
        if count:
            processes[f"{read_text(entry / 'comm') or '?'} ({entry.name})"] += count
    return OpenFiles(processes.total(), processes)


def _count(directory: Path, device: int) -> int:
    count = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:
                    continue
                count += status.st_dev == device and stat.S_ISREG(status.st_mode)
    except OSError:  # gone, or not ours to look at
        return 0
    return count
