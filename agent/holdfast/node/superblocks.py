"""What lies on a block device, by the magic numbers of its first and last bytes.

Offsets are those of the kernel's own headers: ext4.h, xfs_format.h, btrfs_tree.h, md_p.h, and of
LVM's format_text/layout.h.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SECTOR = 512
_EXT = 0x438
_BTRFS = 0x10040
_MD = 0xA92B4EFC.to_bytes(4, "little")
_EXT_JOURNAL, _EXT_EXTENTS = 0x4, 0x40  # compat has_journal, incompat extents


@dataclass(frozen=True)
class Superblock:
    """What a device holds."""

    kind: Literal["file system", "member"]
    """A member belongs to an array, a volume group or a container of encrypted data."""
    type: str
    """`ext2`, `ext4`, `xfs`, `btrfs`; of members `md`, `lvm`, `luks`."""
    uuid: str | None
    """As udev and GRUB write it; that of the array for a member of md, with colons."""


def read_superblock(device: Path) -> Superblock | None:
    """Look at a device; None if nothing known is on it. Raises `OSError`, for want of rights."""
    file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        head = os.pread(file, 128 << 10, 0)
        return _member(file, head, size) or _file_system(head)
    finally:
        os.close(file)


def _member(file: int, head: bytes, size: int) -> Superblock | None:
    # Version 1.1 at the start, 1.2 after 4 KiB, 1.0 and 0.90 near the end.
    for place in (
        head[:256],
        head[4096:4352],
        _at(file, (size // _SECTOR - 16) // 8 * 8 * _SECTOR),
    ):
        if place[:4] == _MD and place[4:8] == (1).to_bytes(4, "little"):
            return Superblock("member", "md", _md_uuid(place[16:32]))
    old = _at(file, size // 65536 * 65536 - 65536)
    if old[:4] == _MD and old[4:8] == bytes(4):
        # Its four words are apart, and in the machine's order.
        words = old[20:24] + old[52:64]
        swapped = b"".join(words[at : at + 4][::-1] for at in range(0, 16, 4))
        return Superblock("member", "md", _md_uuid(swapped))
    if any(head[at : at + 8] == b"LABELONE" for at in range(0, 4 * _SECTOR, _SECTOR)):
        return Superblock("member", "lvm", None)
    if head[:6] == b"LUKS\xba\xbe":
        return Superblock("member", "luks", None)
    return None


def _file_system(head: bytes) -> Superblock | None:
    if head[:4] == b"XFSB":
        return Superblock("file system", "xfs", str(uuid.UUID(bytes=head[32:48])))
    if head[_EXT : _EXT + 2] == b"\x53\xef":
        base = _EXT - 0x38
        compat = int.from_bytes(head[base + 0x5C : base + 0x60], "little")
        incompat = int.from_bytes(head[base + 0x60 : base + 0x64], "little")
        kind = "ext4" if incompat & _EXT_EXTENTS else "ext3" if compat & _EXT_JOURNAL else "ext2"
        return Superblock("file system", kind, str(uuid.UUID(bytes=head[base + 104 : base + 120])))
    if head[_BTRFS : _BTRFS + 8] == b"_BHRfS_M":
        fsid = head[_BTRFS - 0x20 : _BTRFS - 0x10]
        return Superblock("file system", "btrfs", str(uuid.UUID(bytes=fsid)))
    return None


def _md_uuid(raw: bytes) -> str:
    """Write an array's UUID as mdadm prints it."""
    text = raw.hex()
    return ":".join(text[at : at + 8] for at in range(0, 32, 8))


def _at(file: int, offset: int) -> bytes:
    return os.pread(file, 256, offset) if offset > 0 else b""
