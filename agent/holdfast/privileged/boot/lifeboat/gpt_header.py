"""A GPT with one partition, to be found by a header that is elsewhere (UEFI 2.10, 5.3)."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.privileged.boot.disk.gpt import ESP, GptPartition

SIGNATURE = b"EFI PART"
ENTRIES, ENTRY_BYTES = 128, 128
TABLE_BYTES = ENTRIES * ENTRY_BYTES
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_REVISION = 0x00010000
_NAME = "holdfast lifeboat"


@dataclass(frozen=True)
class Header:
    """What a header says of its table; numbers of logical sectors."""

    own: int
    other: int
    first_usable: int
    last_usable: int
    disk_uuid: bytes
    """As on the disk."""
    table: int

    def encoded(self, entries: bytes, sector_bytes: int) -> bytes:
        """Return the sector that has it, with the checksums."""
        fields = (
            SIGNATURE,
            _REVISION,
            _HEADER.size,
            0,
            0,
            self.own,
            self.other,
            self.first_usable,
            self.last_usable,
            self.disk_uuid,
            self.table,
            ENTRIES,
            ENTRY_BYTES,
            zlib.crc32(entries),
        )
        blank = _HEADER.pack(*fields)
        checked = blank[:16] + struct.pack("<I", zlib.crc32(blank)) + blank[20:]
        return checked.ljust(sector_bytes, b"\0")


def disk_uuid(header: bytes) -> bytes | None:
    """Return the disk's GUID, as on the disk, from the sector of a header; None if it is none."""
    if len(header) < _HEADER.size or header[:8] != SIGNATURE:
        return None
    return bytes(header[56:72])


def is_protective(mbr: bytes) -> bool:
    """Whether an MBR has the entry by which firmware looks for a GPT, and no other."""
    if len(mbr) < 512 or mbr[510:512] != b"\x55\xaa":
        return False
    entries: Sequence[bytes] = [mbr[446 + 16 * number : 462 + 16 * number] for number in range(4)]
    used = [entry for entry in entries if entry[4] != 0]
    return len(used) == 1 and used[0][4] == 0xEE and used[0][8:12] == b"\1\0\0\0"


def table_of(partition: GptPartition, first: int, last: int) -> bytes:
    """Return the entries of a table in which this partition is from `first` to `last`.

    Its number and its GUID are those by which the firmware's menu knows it; it is made a system
    partition. Raises `ValueError` for a number that no table of 128 entries has.
    """
    if not 1 <= partition.number <= ENTRIES:
        raise ValueError(f"partition {partition.number} has no place in the table")
    entry = _ENTRY.pack(
        uuid.UUID(ESP).bytes_le,
        uuid.UUID(partition.uuid).bytes_le,
        first,
        last,
        0,
        _NAME.encode("utf-16-le"),
    )
    entries = bytearray(TABLE_BYTES)
    at = (partition.number - 1) * ENTRY_BYTES
    entries[at : at + ENTRY_BYTES] = entry
    return bytes(entries)
