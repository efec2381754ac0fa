"""Turns swap areas on and off with swapon(2) and swapoff(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.storage.swap import read_swaps
from holdfast.privileged.writes import SwapWrite

_PREFER = 0x8000  # SWAP_FLAG_PREFER: the low bits are a priority
_PRIORITY_MASK = 0x7FFF

_libc = ctypes.CDLL(None, use_errno=True)


def use(write: SwapWrite) -> None:
    """Use the areas named and no others. Raises `OSError`, ENOMEM if memory cannot take it all."""
    wanted = {area.path: area.priority for area in write.areas}
    for area in read_swaps():
        if area.path not in wanted:
            _call("swapoff", area.path, _libc.swapoff(os.fsencode(area.path)))
    active = {area.path for area in read_swaps()}
    for path, priority in wanted.items():
        if path not in active:
            reason = lost(path)
            if reason is not None:
                raise OSError(errno.EPERM, f"swapon: {reason}", path)
            flags = 0 if priority < 0 else _PREFER | (priority & _PRIORITY_MASK)
            _call("swapon", path, _libc.swapon(os.fsencode(path), flags))


def lost(path: str) -> str | None:
    """Return why a swap file could not be turned on again, as a clause; None if it can.

    swapon(2) opens it for writing, which a service may not do whose file systems are read-only;
    and what others can read or write must not hold the memory of processes. Devices are fine.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - like the other calls here
        if not stat.S_ISREG(status.st_mode):
            return None
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return (
                "its file system is read-only for this service; turn it off yourself "
                "(swapoff, and its line in /etc/fstab)"
            )
        if (
            status.st_uid != 0
            or status.st_mode & 0o077
            or why_unguarded(Path(path), {0}) is not None
        ):
            return "other users than root can read it or replace it; run `chmod 600` on it"
    except OSError as error:
        return f"it cannot be inspected ({error.strerror})"
    return None


def _call(what: str, path: str, answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}", path)
