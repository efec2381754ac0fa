"""Disk images for tests: real partition tables and file systems, in sparse files."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


@dataclass(frozen=True)
class FileSystem:
    """A file system to make in a partition."""

    start_mib: int
    size_mib: int
    make: Sequence[str]
    """The command that makes it, without the file's name."""


def run(*command: str | Path, script: str | None = None) -> str:
    """Run a program that has to succeed; return what it prints."""
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, check=False, env=_ENVIRONMENT
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def make_disk(path: Path, size_mib: int, table: str, file_systems: Sequence[FileSystem]) -> Path:
    """Write a disk image: a partition table in sfdisk's language, and file systems."""
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)
    run("sfdisk", "--quiet", path, script=table)
    for file_system in file_systems:
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            file.truncate(file_system.size_mib * MIB)
        run(*file_system.make, part)
        run("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={file_system.start_mib}",
            "conv=notrunc,sparse", "status=none")  # fmt: skip
        part.unlink()
    return path


def probe(path: Path, start: int, size: int) -> Mapping[str, str]:
    """Ask blkid what is in a part of an image."""
    text = run("blkid", "-p", "-O", str(start), "-S", str(size), "-o", "export", path)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def put_grub(disk: Path, *, core: bool) -> None:
    """Put boot code like GRUB's into sector 0, and the core image that it loads."""
    with disk.open("r+b") as file:
        file.write(b"\xeb\x63\x90")
        file.seek(0x5C)
        file.write(struct.pack("<Q", 34))
        file.seek(0x180)
        file.write(b"GRUB \0Geom\0Hard Disk\0")
        if core:
            file.seek(34 * 512)
            file.write(b"\x52\xbf" + bytes(498) + struct.pack("<QHH", 35, 60, 0x820))
            file.write(b"\xea" * 512)
