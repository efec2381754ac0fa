"""Turns swap areas on and off with swapon(2) and swapoff(2)."""

from __future__ import annotations

import ctypes
import os

from holdfast.node.swap import read_swaps
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
            flags = 0 if priority < 0 else _PREFER | (priority & _PRIORITY_MASK)
            _call("swapon", path, _libc.swapon(os.fsencode(path), flags))


def _call(what: str, path: str, answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}", path)
