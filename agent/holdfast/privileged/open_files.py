"""Counts the files that processes have open on a file system: other users' need privilege."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path

from holdfast.node.files import read_text


def count_open_files(mount_point: str, proc: Path = Path("/proc")) -> dict[str, int]:
    """Count regular files of the file system mounted there, by `name (pid)`.

    Processes that this one may not look into are left out. Raises `OSError` if there is no such
    directory.
    """
    device = Path(mount_point).stat().st_dev
    processes: dict[str, int] = Counter()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        count = _count(entry / "fd", device)
        if count:
            processes[f"{read_text(entry / 'comm') or '?'} ({entry.name})"] = count
    return processes


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
