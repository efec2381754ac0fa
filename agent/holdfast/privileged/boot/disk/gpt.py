"""A partition's entry in the disk's GPT (UEFI Specification 2.10, 5.3)."""

from __future__ import annotations

import errno
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.read_back import raw, read_raw

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"


@dataclass(frozen=True)
class GptPartition:
    """An entry of the table."""

    number: int
    type: str
    uuid: str
    start: int
    """In the disk's sectors, as `sectors` is."""
    sectors: int


def partition_at(disk: Path, start_bytes: int, sector_bytes: int = 512) -> GptPartition | None:
    """Return the partition that begins there; None on a disk without a GPT, or such a partition.

    `sector_bytes` is the size of the disk's logical sectors. Raises `OSError`.
    """
    with raw(disk) as file:
        header = b"".join(read_raw(file, sector_bytes, 512))
        if header[:8] != b"EFI PART":
            return None
        at, count, size = struct.unpack_from("<QII", header, 72)
        if not 128 <= size <= 4096 or count > 1024:
            raise OSError(errno.EINVAL, "its partition table cannot be understood", str(disk))
        table = b"".join(read_raw(file, at * sector_bytes, count * size))
    for index in range(count):
        entry = table[index * size : index * size + 128]
        start, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]) and start * sector_bytes == start_bytes:
            return GptPartition(
                number=index + 1,
                type=str(uuid.UUID(bytes_le=entry[:16])),
                uuid=str(uuid.UUID(bytes_le=entry[16:32])),
                start=start,
                sectors=last - start + 1,
            )
    return None
