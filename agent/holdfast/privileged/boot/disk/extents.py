"""Where the bytes of a file are on its device, as FIEMAP (linux/fiemap.h) reports it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FS_IOC_FIEMAP = 0xC020660B
_SYNC = 0x1
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_AT_ONCE = 512
_LAST = 0x1
# unknown, delayed, encoded, encrypted, not aligned, inline, tail.
_NOT_IN_PLACE = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
_UNWRITTEN = 0x800


@dataclass(frozen=True)
class Extent:
    """A run of bytes, in bytes of the file and of the device that holds its file system."""

    offset: int
    place: int
    length: int


def extents_of(path: Path, *, unwritten: bool = False) -> Sequence[Extent]:
    """Return the extents of a file, neighbours on the disk joined, holes left out.

    With `unwritten` also those that are allocated and read as zeros, whatever the device has.
    Raises `OSError`: `EINVAL` with a reason where not all of its bytes are plainly on the device.
    """
    refused = _NOT_IN_PLACE if unwritten else _NOT_IN_PLACE | _UNWRITTEN
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found: list[Extent] = []
        start, last = 0, False
        while not last:
            buffer = bytearray(_HEADER.size + _AT_ONCE * _EXTENT.size)
            _HEADER.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _SYNC, 0, _AT_ONCE, 0)
            fcntl.ioctl(file, _FS_IOC_FIEMAP, buffer)
            mapped = _HEADER.unpack_from(buffer)[3]
            if mapped == 0:
                break
            for number in range(mapped):
                fields = _EXTENT.unpack_from(buffer, _HEADER.size + number * _EXTENT.size)
                offset, place, length, flags = fields[0], fields[1], fields[2], fields[5]
                if flags & refused:
                    reason = f"its bytes are not plainly on the disk (FIEMAP flags {flags:#x})"
                    raise OSError(errno.EINVAL, reason, str(path))
                append(found, Extent(offset, place, length))
                start, last = offset + length, bool(flags & _LAST)
        return found
    finally:
        os.close(file)


def is_single(found: Sequence[Extent], length: int) -> bool:
    """Whether the first `length` bytes of a file with these extents are in one piece."""
    return len(found) == 1 and found[0].offset == 0 and found[0].length >= length


def single_place(found: Sequence[Extent], length: int, path: Path) -> int:
    """Return where the first `length` bytes of a file with these extents are, if in one piece.

    Raises `OSError` about `path`.
    """
    if not is_single(found, length):
        raise OSError(errno.EINVAL, "it is not in one piece on the disk", str(path))
    return found[0].place


def append(found: list[Extent], extent: Extent) -> None:
    """Add an extent, joined to the last one if it starts where that ends."""
    if found:
        before = found[-1]
        if (
            before.offset + before.length == extent.offset
            and before.place + before.length == extent.place
        ):
            found[-1] = Extent(before.offset, before.place, before.length + extent.length)
            return
    found.append(extent)
