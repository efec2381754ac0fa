"""Reads a FAT file system from its device, as firmware does: where a file's bytes are.

Past the page cache, and past the kernel's own view of the file system. The engine reads it
(`rust/media/src/tree/fat_runs.rs`).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

from holdfast import _engine
from holdfast.privileged.boot.disk.extents import Extent


def extents_of(device: Path, path: str) -> Sequence[Extent]:
    """Return the extents of a file, whole clusters, neighbours joined.

    `path` begins at the file system's root. Raises `OSError`: `ENOENT` where it is not there,
    `EINVAL` for something that is no FAT file system, or a damaged one.
    """
    try:
        place = json.loads(_engine.find_fat_file(device, path))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its FAT file system {error}", str(device)) from None
    match place["found"]:
        case "missing":
            raise OSError(errno.ENOENT, "is not on the disk", path)
        case "not_directory":
            raise OSError(errno.ENOTDIR, "is no directory on the disk", path)
        case _:
            return [Extent(*run) for run in place["runs"]]
