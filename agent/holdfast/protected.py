"""Whether others could have put a file where it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path


def exposed(path: Path, owners: Collection[int] | None = None) -> str | None:
    """Return a clause on who else could have put something at a path; None if nobody could.

    The path and each directory over it have to belong to these users (root and this process's
    user unless given) and be writable by no others. In a directory with the sticky bit others may
    make names, but not replace those of `owners`. Raises `OSError`.
    """
    trusted = frozenset({0, os.geteuid()} if owners is None else owners)
    whole = path.absolute()
    for part in (*reversed(whole.parents), whole):
        status = part.lstat()
        if status.st_uid not in trusted:
            return f"{part} belongs to user {status.st_uid}"
        if stat.S_ISLNK(status.st_mode):
            continue  # where it leads is checked below
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & 0o022 and not (sticky and part != whole):
            return f"{part} is writable by other users (mode {stat.S_IMODE(status.st_mode):04o})"
    real = Path(os.path.realpath(whole))
    return None if real == whole else exposed(real, trusted)
