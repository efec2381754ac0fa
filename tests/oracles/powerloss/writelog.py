"""Parses logs of writes in the format of the kernel's dm-log-writes, as QEMU's blklogwrites has it.

Documentation/admin-guide/device-mapper/log-writes.rst; `struct log_write_super` and `_entry` in
drivers/md/dm-log-writes.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")  # magic, version, entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of data
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Write:
    """One entry of a log."""

    offset: int
    length: int
    data_at: int
    """Offset of the data in the log; of no meaning for a discard."""
    flags: int

    @property
    def flush(self) -> bool:
        """Whether everything before it is on the medium once it is done."""
        return bool(self.flags & _FLUSH)

    @property
    def fua(self) -> bool:
        """Whether it is on the medium itself once it is done."""
        return bool(self.flags & _FUA)

    @property
    def discard(self) -> bool:
        """Whether the range's content is undefined afterwards."""
        return bool(self.flags & _DISCARD)

    @property
    def changes(self) -> bool:
        """Whether it has data for the disk."""
        return bool(self.length) and not self.flags & (_DISCARD | _MARK)


def entries(log: Path) -> int:
    """Return how many entries a log has so far, as of its last update."""
    with log.open("rb") as file:
        start = file.read(_SUPER.size)
    return int(_SUPER.unpack(start)[2]) if len(start) == _SUPER.size else 0


def writes(log: Path) -> Iterator[Write]:
    """Yield the entries of a log. Raises `ValueError` if it is none."""
    with log.open("rb") as file:
        start = file.read(_SUPER.size).ljust(_SUPER.size, b"\0")
        magic, version, count, sector = _SUPER.unpack(start)
        if (magic, version, sector) != (_MAGIC, 1, SECTOR):
            raise ValueError(f"{log} is no log of writes: {magic:#x} {version} {sector}")
        at = SECTOR
        for _ in range(count):
            file.seek(at)
            first, sectors, flags, length = _ENTRY.unpack(file.read(_ENTRY.size))
            at += SECTOR
            yield Write(first * SECTOR, sectors * SECTOR, at, flags)
            if not flags & _DISCARD:
                at += max(length, 0 if flags & _MARK else sectors * SECTOR)
