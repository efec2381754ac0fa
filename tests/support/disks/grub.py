"""GRUB for a BIOS on a disk that a test makes: boot sector, core image, raw sectors."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

MODULES = Path("/usr/lib/grub/i386-pc")
SECTOR = 512
_TABLE_AT = 440


def core_image(configuration: str, at: int) -> bytes:
    """Make a core image with an embedded configuration for the place `at`, in bytes."""
    with tempfile.TemporaryDirectory() as directory:
        config, made = Path(directory) / "grub.cfg", Path(directory) / "core.img"
        config.write_text(configuration)
        command = ("grub-mkimage", "-O", "i386-pc", "-p", "(hd0)", "-c", config, "-o", made)
        subprocess.run((*command, "biosdisk", "linux"), check=True)
        core = bytearray(made.read_bytes())
    sectors = -(-len(core) // SECTOR)
    # One entry of diskboot's list: all that follows its own sector.
    struct.pack_into("<QHH", core, 500, at // SECTOR + 1, sectors - 1, 0x820)
    return bytes(core)


def boot_sector(core_at: int, old: bytes) -> bytes:
    """Return an LBA 0 that loads the core image at a place; it keeps the table of the old one."""
    boot = bytearray((MODULES / "boot.img").read_bytes())
    struct.pack_into("<Q", boot, 0x5C, core_at // SECTOR)
    boot[0x66:0x68] = b"\x90\x90"
    boot[_TABLE_AT:SECTOR] = old[_TABLE_AT:SECTOR]
    return bytes(boot)


def blocks(at: int, content: bytes) -> str:
    """Return GRUB's name for what is at a place of the disk that was booted."""
    return f"(hd0){at // SECTOR}+{-(-len(content) // SECTOR)}"
