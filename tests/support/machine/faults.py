"""Devices that fail, and file systems on which reading past the page cache is refused or faked."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.machine.mounts import mounted

MIB = 1 << 20
_BLOCK = 4096
_INSERT_RANGE = 0x20
_EXTENT = re.compile(r"^ *\d+: +(\d+)\.\. *(\d+): +(\d+)\.\. *(\d+):", re.MULTILINE)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class FailingDevice:
    """A file system of which a part of one file will not be readable any more."""

    root: Path
    file: Path
    """Will be readable at both ends, but not from the middle of `fragile` to its end."""
    good: Path
    """Will be readable."""
    fragile: tuple[int, int]
    """The range of bytes that lies where the device ends."""
    _image: Path
    _device: str

    def break_down(self) -> None:
        """Take the end of the device away; reads that reach it fail with EIO from now on.

        This is not simulated: it is what the kernel answers for a device that has shrunk below a
        mounted file system.
        """
        middle = sum(self.fragile) // 2
        os.sync()
        os.truncate(self._image, self._physical(middle))
        _run("losetup", "--set-capacity", self._device)
        fd = os.open(self.file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def _physical(self, offset: int) -> int:
        """Return where on the device a byte of the file lies."""
        block = offset // _BLOCK
        for match in _EXTENT.finditer(_run("filefrag", "-b4096", "-v", self.file)):
            first, last, start, _ = map(int, match.groups())
            if first <= block <= last:
                return (start + block - first) * _BLOCK
        raise AssertionError(f"{self.file} has no block {block}")


@contextmanager
def failing_device(directory: Path) -> Iterator[FailingDevice]:
    """Mount a small ext4 on a loop device with a file of 40 MiB, which may break down later.

    The file's middle lies behind all the rest of it on the device: it was inserted afterwards.
    Skips the test where nothing can be mounted.
    """
    image = directory.with_name(f"{directory.name}.img")
    with image.open("wb") as file:
        file.truncate(96 * MIB)
    try:
        options = ("-b", "4096", "-O", "^has_journal", "-m", "0")
        _run("mkfs.ext4", "-q", "-F", *options, image)
        done = subprocess.run(
            ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"there are no loop devices here: {done.stderr.strip()}")
        device = done.stdout.strip()
        try:
            with mounted(directory, device):
                yield _with_file(directory, image, device)
        finally:
            # Still busy for a moment, it goes when the file system does.
            _run("losetup", "--detach", device)
    finally:
        image.unlink()


def _with_file(root: Path, image: Path, device: str) -> FailingDevice:
    path, good = (root / "data" / name for name in ("file", "good"))
    path.parent.mkdir()
    good.write_bytes(os.urandom(3 * MIB))
    os.sync()
    fragile = (16 * MIB, 24 * MIB)
    with path.open("wb", buffering=0) as file:
        file.write(os.urandom(32 * MIB))
        os.fsync(file.fileno())
        length = fragile[1] - fragile[0]
        if _libc.fallocate(file.fileno(), _INSERT_RANGE, fragile[0], length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        os.pwrite(file.fileno(), os.urandom(length), fragile[0])
        os.fsync(file.fileno())
    return FailingDevice(path.parent, path, good, fragile, image, device)


@contextmanager
def file_system(kind: str, directory: Path) -> Iterator[Path]:
    """Mount a file system of a kind, and give its directory.

    Kinds are `tmpfs`, `overlay`, `xfs`, `btrfs`, and `journal`, an ext4 with `data=journal` that
    takes O_DIRECT and ignores it. Skips the test where it cannot be mounted or made.
    """
    directory.mkdir()
    if kind == "tmpfs":
        with mounted(directory / "on", "-t", "tmpfs", "none") as place:
            yield place
        return
    if kind == "overlay":
        lower, upper, work = (directory / name for name in ("lower", "upper", "work"))
        for each in (lower, upper, work):
            each.mkdir()
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with mounted(directory / "on", "-t", "overlay", "overlay", "-o", layers) as place:
            yield place
        return
    program, options = {
        "journal": (("mkfs.ext4", "-q", "-F"), "loop,data=journal"),
        "xfs": (("mkfs.xfs", "-q", "-f"), "loop"),
        "btrfs": (("mkfs.btrfs", "-q", "-f"), "loop"),
    }[kind]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    _run(*program, image)
    with mounted(directory / "on", "-o", options, image) as place:
        yield place
