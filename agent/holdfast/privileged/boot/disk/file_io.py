"""Files of the boot: written with their digests, over themselves in place, and read plainly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast.node.paths.beneath import read_file
from holdfast.privileged.boot.models import FileReport
from holdfast.storage.atomic_files import replace_with


def write_file(path: Path, parts: Iterable[bytes], mode: int | None, shown: str) -> FileReport:
    """Write a file under a temporary name, flush it and rename it. Raises `OSError`."""
    digest, size = hashlib.sha256(), 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for part in parts:
            digest.update(part)
            size += len(part)
            yield part

    replace_with(path, counted(), mode)
    return FileReport(path=shown, size_bytes=size, sha256=digest.hexdigest())


def overwrite(path: Path, content: bytes) -> None:
    """Write over the bytes of a file where they are; its size must be the same.

    Its blocks stay the same, so that a program that reads them past the file system sees the
    change.
    Raises `OSError`.
    """
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size != len(content):
            raise OSError(5, "its size has changed", str(path))
        if os.pwrite(file, content, 0) != len(content):
            raise OSError(5, "only a part of it was written", str(path))
        os.fsync(file)
    finally:
        os.close(file)


def read_plain(path: Path, limit: int) -> bytes:
    """Read a regular file, not through a symbolic link. Raises `OSError`."""
    return read_file(path, limit)
