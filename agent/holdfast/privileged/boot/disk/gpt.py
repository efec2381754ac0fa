"""A partition's entry in the disk's GPT (UEFI Specification 2.10, 5.3)."""

from __future__ import annotations

import errno
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.read_back import raw, read_raw

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"

_HEADER = struct.Struct("<8sIIIIQQQQ16sQII")  # 5.3.2
_MOST_ENTRIES, _MOST_ENTRY_BYTES = 1024, 4096


@dataclass(frozen=True)
class GptPartition:
    """An entry of the table."""

    number: int
    type: str
    uuid: str
    start: int
    """In the disk's sectors, as `sectors` is."""
    sectors: int


@dataclass(frozen=True)
class GptHeader:
    """A header of the table; places in the disk's sectors."""

    own: int
    other: int
    entries_at: int
    entries: int
    entry_bytes: int

    def check(self, disk: Path) -> None:
        """Raise `OSError` with `EINVAL` for a table that cannot be understood."""
        if not 128 <= self.entry_bytes <= _MOST_ENTRY_BYTES or self.entries > _MOST_ENTRIES:
            raise OSError(errno.EINVAL, "its partition table cannot be understood", str(disk))


def header_at(file: int, lba: int, sector_bytes: int) -> GptHeader | None:
    """Return the header that is in a sector; None where there is none. Raises `OSError`."""
    fields = _HEADER.unpack_from(b"".join(read_raw(file, lba * sector_bytes, 512)))
    if fields[0] != b"EFI PART":
        return None
    return GptHeader(fields[5], fields[6], *fields[10:13])


def entries_of(
    file: int, header: GptHeader, sector_bytes: int, disk: Path
) -> Iterator[GptPartition]:
    """Yield the partitions of a table. Raises `OSError`, also for one that is not understood."""
    header.check(disk)
    size = header.entry_bytes
    table = b"".join(read_raw(file, header.entries_at * sector_bytes, header.entries * size))
    for index in range(header.entries):
        entry = table[index * size : index * size + 128]
        if any(entry[:16]):
            start, last = struct.unpack_from("<QQ", entry, 32)
            yield GptPartition(
                number=index + 1,
                type=str(uuid.UUID(bytes_le=entry[:16])),
                uuid=str(uuid.UUID(bytes_le=entry[16:32])),
                start=start,
                sectors=last - start + 1,
            )


def partition_at(disk: Path, start_bytes: int, sector_bytes: int = 512) -> GptPartition | None:
    """Return the partition that begins there; None on a disk without a GPT, or such a partition.

    `sector_bytes` is the size of the disk's logical sectors. Raises `OSError`.
    """
    with raw(disk) as file:
        header = header_at(file, 1, sector_bytes)
        found = [] if header is None else list(entries_of(file, header, sector_bytes, disk))
    return next((each for each in found if each.start * sector_bytes == start_bytes), None)
