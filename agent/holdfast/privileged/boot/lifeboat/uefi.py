"""Builds a lifeboat for UEFI: a system partition of its own, in a table of its own.

The primary header of the GPT (LBA 1) is the switch: it leads to that table, or to the system's.
The table has a valid backup, so that no firmware writes one where it supposes it. The partition
has the number and the GUID of the system partition that the machine boots from, and a loader at
the removable path and at the path of the firmware's entry, so that both lead to it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.privileged.boot.disk.gpt import GptPartition, NewTable, build_gpt
from holdfast.privileged.boot.lifeboat.efi_loader import EfiLoader
from holdfast.privileged.boot.lifeboat.parts import (
    PARTS_AT,
    LifeboatError,
    Part,
    Parts,
    Region,
    aligned,
)
from holdfast.privileged.boot.loaders.cmdline import kernel_line

REMOVABLE = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from a disk that it has no entry for (UEFI 2.10, 3.5.1.1)."""
NO_SWITCH = (
    "The disk has no GPT with a protective MBR alone, so there is no one sector by which its "
    "firmware could boot the lifeboat."
)
_NAME = "holdfast lifeboat"
TABLE_BYTES = 128 * 128
_MIB = 1 << 20
_CLUSTER, _SYSTEM_BYTES = 32 << 10, 2 * _MIB
"""What each file wastes at most, and what the file system takes with its configuration."""
KERNEL, INITRAMFS = "holdfast/vmlinuz", "holdfast/initramfs.img"


@dataclass(frozen=True)
class OldDisk:
    """What of the disk's present table the lifeboat keeps."""

    mbr: bytes
    """LBA 0."""
    header: bytes
    """LBA 1."""
    partition: GptPartition
    """The system partition that the machine boots from."""
    paths: Sequence[str]
    """Where the firmware's entries have loaders on it, such as `EFI/debian/shimx64.efi`."""


def build(
    region: Region,
    kernel: bytes | Path,
    initramfs: bytes | Path,
    words: Sequence[str],
    *,
    old: OldDisk,
    loader: EfiLoader,
    sector_bytes: int,
) -> Parts:
    """Build what boots `kernel` with `initramfs` and the command line `words` from a region.

    Raises `LifeboatError`, `OSError`; `ValueError` with a clause for words no kernel takes.
    """
    disk = switched_disk(old.mbr, old.header)
    kernel_line(words)
    files = {KERNEL: _content(kernel), INITRAMFS: _content(initramfs)}
    files |= loader.files(f"/{KERNEL}", f"/{INITRAMFS}", words)
    program = loader.program(f"/{KERNEL}", f"/{INITRAMFS}", words)
    # Each program once: FAT takes upper case and lower case for the same.
    known = {name.casefold() for name in files}
    for path in (REMOVABLE, *old.paths):
        directory = posixpath.dirname(path)
        placed = {path: program}
        placed |= {f"{directory}/{name}": content for name, content in loader.beside.items()}
        files |= {name: content for name, content in placed.items() if name.casefold() not in known}
        known |= {name.casefold() for name in placed}
    try:
        system = _engine.build_fat(sector_bytes, sorted(files.items()))
    except ValueError as error:
        raise LifeboatError(f"{error}.") from None

    table_at = PARTS_AT
    backup_at = table_at + aligned(TABLE_BYTES)
    header_at = backup_at + aligned(TABLE_BYTES)
    esp_at = header_at + aligned(sector_bytes)

    def sector(offset: int) -> int:
        return (region.offset_bytes + offset) // sector_bytes

    first, last = sector(esp_at), sector(esp_at + len(system)) - 1
    entries, primary, backup = build_gpt(
        NewTable(
            sector_bytes=sector_bytes,
            disk=disk,
            table=sector(table_at),
            backup=sector(header_at),
            backup_table=sector(backup_at),
            # Those by which the firmware's menu knows it.
            number=old.partition.number,
            part_uuid=old.partition.uuid,
            first=first,
            last=last,
            name=_NAME,
        )
    )
    second = entries.ljust(aligned(TABLE_BYTES), b"\0") + backup
    return Parts(
        "uefi",
        sector_bytes,
        1,
        primary,
        [
            Part("table", table_at, entries),
            Part("backup-table", backup_at, second),
            Part("esp", esp_at, system),
        ],
    )


def switched_disk(mbr: bytes, header: bytes) -> str:
    """Return the disk's GUID from LBA 0 and LBA 1, of which LBA 1 alone decides on the table.

    Raises `LifeboatError` where it does not, or is damaged.
    """
    try:
        disk = _engine.switched_gpt(mbr, header)
    except ValueError as error:
        raise LifeboatError(f"The disk's partition table cannot be understood: {error}.") from None
    if disk is None:
        raise LifeboatError(NO_SWITCH)
    return disk


def length_bytes(contents: int, loader: EfiLoader, paths: int) -> int:
    """Return the most that a lifeboat takes of its region.

    `contents` are the bytes of kernel and initramfs, `paths` how many the firmware's menu has.
    """
    files = 2 + (1 + paths) * (1 + len(loader.beside)) + len(loader.files("", "", []))
    system = contents + (1 + paths) * loader.most_bytes + files * _CLUSTER + _SYSTEM_BYTES
    return PARTS_AT + 2 * aligned(TABLE_BYTES) + 2 * aligned(1) + -(-system // _MIB) * _MIB


def _content(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
