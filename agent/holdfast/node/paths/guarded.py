"""Whether a path leads where a trusted user wants it to: nobody else can swap a part of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def why_unguarded(path: Path, trusted: Collection[int]) -> str | None:
    """Return a sentence on who else can put something of theirs at `path`; None if nobody can.

    Everything from `/` on has to belong to the users `trusted` and be writable by nobody else; a
    directory may be if it is sticky, since then only owners rename what is in it. Links on the way
    are followed and count. What does not exist is nobody's. Raises `OSError` where that cannot be
    determined.
    """
    waiting = list(reversed(path.parts[1:]))
    at, links = Path("/"), 0
    reason = _why(at, os.lstat(at), trusted)
    while waiting and reason is None:
        part = waiting.pop()
        if part == "..":
            at = at.parent
            continue
        here = at / part
        try:
            status = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        reason = _why(here, status, trusted)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                return f"{path} has too many symbolic links."
            target = here.readlink()
            if target.is_absolute():
                at = Path("/")
            waiting += reversed([part for part in target.parts if part != "/"])
        else:
            at = here
    return reason


def _why(path: Path, status: os.stat_result, trusted: Collection[int]) -> str | None:
    if status.st_uid not in trusted:
        return f"{path} belongs to user {status.st_uid}, who can put something else in its place."
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & _OTHERS:
        return None
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    return (
        f"{path} can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})."
    )
