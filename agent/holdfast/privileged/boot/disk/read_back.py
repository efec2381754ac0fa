"""Reads what was written from the disk itself, past the page cache and the file system."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.privileged.boot.disk.extents import Extent

_ALIGNED = 4096
_CHUNK = 1 << 20
_BLKFLSBUF = 0x1261
_SECONDS = 60.0
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


@contextmanager
def raw(device: Path) -> Iterator[int]:
    """Open a device for reading past the page cache. Raises `OSError`."""
    file = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def read_raw(file: int, offset: int, length: int) -> Iterator[bytes]:
    """Read bytes of a device opened by `raw`, whatever their alignment. Raises `OSError`."""
    with mmap.mmap(-1, _CHUNK) as buffer:
        at, end = offset // _ALIGNED * _ALIGNED, offset + length
        while at < end:
            wanted = min(_CHUNK, -(-(end - at) // _ALIGNED) * _ALIGNED)
            with memoryview(buffer)[:wanted] as view:
                got = os.preadv(file, [view], at)
                skip = max(offset - at, 0)
                if got <= skip:
                    raise OSError(errno.EIO, "the device ended")
                yield bytes(view[skip : min(got, end - at)])
            at += got


def digest_of_extents(device: Path, extents: Iterable[Extent], size: int) -> str:
    """Return the SHA-256 of a file's bytes as they are on its device. Raises `OSError`."""
    digest, done = hashlib.sha256(), 0
    with raw(device) as file:
        for extent in extents:
            if extent.offset > done:
                digest.update(bytes(extent.offset - done))
            done = max(done, extent.offset)
            length = min(extent.length, size - done)
            if length <= 0:
                break
            for part in read_raw(file, extent.place, length):
                digest.update(part)
            done += length
    digest.update(bytes(size - done))
    return digest.hexdigest()


def grub_digest(device: Path, name: str) -> str | None:
    """Return the SHA-256 of a file as GRUB's own code reads it; None without grub-fstest.

    `name` is a path on the device's file system. Raises `OSError`: `ENOENT` where GRUB does not
    find the file, even if the kernel does.
    """
    program = shutil.which("grub-fstest", path=_PATH) or shutil.which("grub2-fstest", path=_PATH)
    if program is None:
        return None
    # It reads through the device's page cache, which does not know of the file system's writes.
    file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(file, _BLKFLSBUF, 0)
    finally:
        os.close(file)
    digest = hashlib.sha256()
    with subprocess.Popen(  # noqa: S603 - a fixed program, no shell
        [program, str(device), "cat", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": _PATH, "LC_ALL": "C"},
    ) as child:
        assert child.stdout is not None  # noqa: S101 - a pipe, as asked for
        assert child.stderr is not None  # noqa: S101
        while part := child.stdout.read(_CHUNK):
            digest.update(part)
        said = " ".join(child.stderr.read().decode(errors="replace").split())
        code = child.wait(_SECONDS)
    if code != 0 or said:
        raise OSError(errno.ENOENT, f"GRUB does not find it: {said or code}", name)
    return digest.hexdigest()
