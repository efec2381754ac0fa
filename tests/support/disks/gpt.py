"""Partition tables made by hand (UEFI Specification 2.10, 5.3), to be damaged."""

from __future__ import annotations

import struct
import uuid
import zlib

HEADER_BYTES = 92


def header(
    entries: bytes,
    *,
    own: int = 1,
    other: int = 9,
    table: int = 2,
    usable: tuple[int, int] = (6, 1 << 16),
    disk: bytes = bytes(16),
    entry_bytes: int = 128,
) -> bytes:
    """Return a header of these entries, of 128 bytes each, with its checksums.

    `entry_bytes` is what the header claims.
    """
    return checked(
        struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            HEADER_BYTES,
            0,
            0,
            own,
            other,
            *usable,
            disk,
            table,
            len(entries) // 128,
            entry_bytes,
            zlib.crc32(entries),
        )
    )


def checked(sector: bytes) -> bytes:
    """Return a sector whose header has the checksum that is right for it."""
    blank = sector[:16] + bytes(4) + sector[20:]
    checksum = struct.pack("<I", zlib.crc32(blank[:HEADER_BYTES]))
    return blank[:16] + checksum + blank[20:]


def entries(number: int, kind: str, part_uuid: str, first: int, last: int) -> bytes:
    """Return a table of 128 entries with one partition."""
    entry = uuid.UUID(kind).bytes_le + uuid.UUID(part_uuid).bytes_le
    entry += struct.pack("<QQ", first, last)
    return bytes((number - 1) * 128) + entry.ljust((129 - number) * 128, b"\0")
