"""Small images to be written, and the disk of the system that is to be replaced."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.privileged.boot.payload.job import blank_outcome
from tests.support.disks.images import FileSystem, make_disk

MIB = 1 << 20
NONCE = "0123456789abcdef" * 2
TARGET_BYTES = 96 * MIB
IMAGE_BYTES = 64 * MIB
LARGE_BYTES = 320 * MIB
"""XFS has at least 300 MiB."""


@dataclass(frozen=True)
class Image:
    """An image as published: its file, and its unpacked content."""

    content: Path
    raw: Path

    @property
    def descriptor(self) -> bytes:
        """The descriptor that the command made."""
        return self.content.with_name(f"{self.content.name}.json").read_bytes()

    def changed(self, path: Path, content: bytes) -> Image:
        """An image with this content and the same descriptor."""
        path.write_bytes(content)
        path.with_name(f"{path.name}.json").write_bytes(self.descriptor)
        return replace(self, content=path)


def describe(content: Path, raw: Path) -> Image:
    """Describe an image with the command that its maker uses."""
    command = (sys.executable, "-m", "holdfast", "image", "describe", str(content))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Image(content, raw)


def bare_image(directory: Path, *, noise_bytes: int = 12 * MIB) -> Image:
    """Make an image without partitions: the disk has exactly its bytes afterwards."""
    directory.mkdir(parents=True)
    raw = directory / "bare.raw"
    with raw.open("wb") as file:
        file.truncate(IMAGE_BYTES)
        # In the first MiB, in the middle and at the end.
        for number, offset in enumerate((0, 20 * MIB, IMAGE_BYTES - noise_bytes // 3)):
            file.seek(offset)
            file.write(random.Random(number).randbytes(noise_bytes // 3))
    return _packed(raw)


def system_image(directory: Path) -> Image:
    """Make an image with a root file system: of another system, which knows no holdfast."""
    tree = directory / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=test\n")
    (tree / "etc/hostname").write_text("abc\n")
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    (tree / "sbin").mkdir()
    (tree / "sbin/init").write_bytes(random.Random(9).randbytes(MIB))
    return _packed(_system_disk(directory / "system.raw", IMAGE_BYTES, tree))


def root_image(directory: Path, kind: str) -> Image:
    """Make an image with an empty root file system of this kind."""
    directory.mkdir(parents=True)
    make = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}[kind]
    return _packed(_disk(directory / f"{kind}.raw", LARGE_BYTES, make))


def old_disk(directory: Path, *options: str) -> Path:
    """Make the target: a system with the record that arming leaves in its /boot.

    `options` are those of mkfs.ext4.
    """
    tree = directory / "old-tree"
    (tree / "boot/holdfast").mkdir(parents=True)
    (tree / "boot/holdfast/outcome").write_bytes(blank_outcome(NONCE))
    (tree / "boot/vmlinuz").write_bytes(random.Random(3).randbytes(8 * MIB))
    return _system_disk(directory / "old.raw", TARGET_BYTES, tree, *options)


def outcome_offset(disk: Path) -> int:
    """Where the record is on a disk that `old_disk` made."""
    offset = disk.read_bytes().index(blank_outcome(NONCE))
    assert offset % 512 == 0
    return offset


def file_of(disk: Path, path: str, *, offset: int = MIB) -> str:
    """Read a file of a system's root, which by default begins after 1 MiB."""
    command = ("debugfs", "-R", f"cat {path}", f"{disk}?offset={offset}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _system_disk(path: Path, size: int, tree: Path, *options: str) -> Path:
    return _disk(path, size, ("mkfs.ext4", "-q", "-F", *options, "-d", str(tree)))


def _disk(path: Path, size: int, make: Sequence[str]) -> Path:
    last = size // MIB - 2
    table = f"label: gpt\nstart=1MiB, size={last}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n"
    return make_disk(path, size // MIB, table, [FileSystem(1, last, make)])


def _packed(raw: Path) -> Image:
    packed = raw.with_name(f"{raw.name}.zst")
    subprocess.run(("zstd", "-q", "-f", str(raw), "-o", str(packed)), check=True)
    return describe(packed, raw)
