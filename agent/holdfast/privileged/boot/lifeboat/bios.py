"""Builds a lifeboat for a BIOS, with the node's own GRUB modules.

LBA 0 is GRUB's boot.img: it loads the first sector of the core image by its number, and that
(diskboot.img) loads the rest. The core image has its configuration embedded, and loads kernel and
initramfs by the numbers of their sectors, without a file system. The offsets are those of GRUB's
include/grub/i386/pc/boot.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from holdfast.privileged.boot.lifeboat.grub_image import configuration, image, tool
from holdfast.privileged.boot.lifeboat.parts import (
    PARTS_AT,
    LifeboatError,
    Part,
    Parts,
    Region,
    aligned,
)

SECTOR = 512
_MODULE_DIRECTORIES = (
    "/usr/lib/grub/i386-pc",
    "/usr/lib/grub2/i386-pc",
    "/usr/share/grub2/i386-pc",
)
_NEEDED = ("boot.img", "diskboot.img", "kernel.img", "lzma_decompress.img", "moddep.lst")
_MODULES = ("biosdisk", "linux", "reboot")
MOST_CORE = 0x78000 - 0x8000
"""Bytes of conventional memory that a core image may take."""
_CORE_SECTOR, _DRIVE_CHECK, _CODE = 0x5C, 0x66, 440
_NOPS = b"\x90\x90"
_BLOCKLIST = 500
_BEHIND_DISKBOOT = 0x820
"""Segment that the second sector of a core image is loaded to."""


def missing_tools(directories: Sequence[str] = _MODULE_DIRECTORIES) -> str | None:
    """Return a sentence about what is not installed here and is needed; None if all is."""
    try:
        tool()
        _modules(directories)
    except LifeboatError as error:
        return str(error)
    return None


def build(
    region: Region,
    kernel: bytes | Path,
    initramfs: bytes | Path,
    words: Sequence[str],
    old_lba0: bytes,
    *,
    sector_bytes: int = SECTOR,
    directories: Sequence[str] = _MODULE_DIRECTORIES,
) -> Parts:
    """Build what boots `kernel` with `initramfs` and the command line `words` from a region.

    `old_lba0` is the disk's present LBA 0, whose disk signature and partition table are kept.
    Raises `LifeboatError`, `OSError`; `ValueError` with a clause for words no kernel takes.
    """
    if sector_bytes != SECTOR:
        raise LifeboatError(
            f"The disk has sectors of {sector_bytes} bytes, from which no BIOS boots."
        )
    modules = _modules(directories)
    begin = Part("kernel", PARTS_AT, kernel)
    archive = Part("initramfs", begin.offset_bytes + begin.length_bytes, initramfs)
    configured = configuration(_place(region, begin), _place(region, archive), words)
    core = _core(modules, configured)
    loader = Part("core", archive.offset_bytes + archive.length_bytes, core)
    first = (region.offset_bytes + loader.offset_bytes) // SECTOR
    loader = Part("core", loader.offset_bytes, _with_blocklist(core, first))
    boot = bytearray((modules / "boot.img").read_bytes())
    if len(boot) != SECTOR or len(old_lba0) < SECTOR:
        raise LifeboatError(f"{modules}/boot.img is not a boot sector.")
    struct.pack_into("<Q", boot, _CORE_SECTOR, first)
    # As grub-install does for a hard disk: whatever drive a faulty BIOS names, it is a hard disk.
    boot[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NOPS
    boot[_CODE:510] = old_lba0[_CODE:510]
    return Parts("bios", SECTOR, 0, bytes(boot), [loader, begin, archive])


def _place(region: Region, part: Part) -> str:
    """Return a part's sectors as GRUB writes a list of blocks of the drive that was booted."""
    start = (region.offset_bytes + part.offset_bytes) // SECTOR
    return f"(${{root}}){start}+{part.length_bytes // SECTOR}"


def _core(modules: Path, configured: bytes) -> bytes:
    """Make a core image. Raises `LifeboatError`, `OSError`."""
    core = image("i386-pc", modules, _MODULES, configured)
    if not 2 * SECTOR < len(core) < MOST_CORE:
        raise LifeboatError(f"The core image of GRUB has {len(core)} bytes, which no BIOS loads.")
    return core


def _with_blocklist(core: bytes, first: int) -> bytes:
    """Return a core image whose first sector loads the rest from the sectors that follow it."""
    patched = bytearray(core.ljust(aligned(len(core)), b"\0"))
    rest = -(-len(core) // SECTOR) - 1
    # One entry: the list grows downwards, and ends at one without a length.
    struct.pack_into("<QHH", patched, _BLOCKLIST, first + 1, rest, _BEHIND_DISKBOOT)
    return bytes(patched)


def _modules(directories: Sequence[str]) -> Path:
    for directory in map(Path, directories):
        if all((directory / name).is_file() for name in _NEEDED):
            return directory
    raise LifeboatError(
        "GRUB's modules for a BIOS are not installed (Debian, Ubuntu: grub-pc-bin; Fedora, RHEL: "
        "grub2-pc-modules)."
    )
