"""Real file systems of each kind, new and mounted for as long as a test needs them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.machine.mounts import mounted

MIB = 1 << 20
_XFS_LEAST = 300 * MIB

_MAKERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ext4": (("mkfs.ext4", "-q", "-F", "-I", "256"), ()),
    # Inodes of 128 bytes keep times in whole seconds.
    "ext4-128": (("mkfs.ext4", "-q", "-F", "-I", "128"), ()),
    "ext4-journal": (("mkfs.ext4", "-q", "-F"), ("data=journal",)),
    "xfs": (("mkfs.xfs", "-q"), ()),
    "btrfs": (("mkfs.btrfs", "-q"), ()),
    "btrfs-compressed": (("mkfs.btrfs", "-q"), ("compress-force=zstd",)),
}
KINDS = (*_MAKERS, "overlay", "tmpfs")


@contextmanager
def new_file_system(kind: str, directory: Path) -> Iterator[Path]:
    """Mount a new file system of one of `KINDS` below a directory; gives its mount point.

    Skips the test where nothing can be mounted.
    """
    place = directory / "fs"
    if kind == "tmpfs":
        with mounted(place, "-t", "tmpfs", "none"):
            yield place
        return
    if kind == "overlay":
        with ExitStack() as stack:
            upper = stack.enter_context(_disk("ext4", directory / "upper"))
            for name in ("lower", "up", "work"):
                (upper / name).mkdir()
            layers = f"lowerdir={upper}/lower,upperdir={upper}/up,workdir={upper}/work"
            yield stack.enter_context(mounted(place, "-t", "overlay", "-o", layers, "overlay"))
        return
    with _disk(kind, place):
        yield place


@contextmanager
def _disk(kind: str, place: Path) -> Iterator[Path]:
    make, options = _MAKERS[kind]
    image = place.with_name(place.name + ".img")
    with image.open("wb") as file:
        file.truncate(_XFS_LEAST if make[0] == "mkfs.xfs" else 160 * MIB)
    made = subprocess.run([*make, image], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"{make[0]} failed: {made.stderr}")
    with mounted(place, "-o", ",".join(("loop", *options)), image):
        yield place
