"""Disk images for tests: real partition tables and file systems, in sparse files."""

from __future__ import annotations

import os
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
    for one in file_systems:
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            file.truncate(one.size_mib * MIB)
        run(*one.make, part)
        run("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={one.start_mib}",
            "conv=notrunc,sparse", "status=none")  # fmt: skip
        part.unlink()
    return path


def probe(path: Path, start: int, size: int) -> Mapping[str, str]:
    """Ask blkid what is in a part of an image."""
    text = run("blkid", "-p", "-O", str(start), "-S", str(size), "-o", "export", path)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
