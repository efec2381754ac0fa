"""Reads an initramfs with programs of the system."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.disks.bootdisk import BootDisk


def unpacked(disk: BootDisk, directory: Path) -> Path:
    """Unpack the initramfs with cpio, as judge of the format."""
    directory.mkdir()
    with (disk.boot / "holdfast/initramfs.img").open("rb") as archive:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=archive, cwd=directory, check=True)
    return directory
