"""The swap areas in use."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class ActiveSwap:
    """A line of /proc/swaps."""

    path: str
    used_bytes: int
    priority: int
    """Below 0 where the kernel chose it."""


def read_swaps(proc: Path = Path("/proc")) -> Sequence[ActiveSwap]:
    """Return the swap areas in use, in the kernel's order. Raises `OSError`."""
    try:
        lines = (proc / "swaps").read_bytes().splitlines()[1:]
    except FileNotFoundError:  # a kernel without swap
        return ()
    found = []
    for line in lines:
        path, _type, _size, used, priority = line.rsplit(maxsplit=4)
        name = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), path)
        found.append(ActiveSwap(os.fsdecode(name), int(used) * 1024, int(priority)))
    return found
