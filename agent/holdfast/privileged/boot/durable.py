"""Files that are on the disk when a call returns, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from holdfast.privileged.boot.models import FileReport


def write_file(path: Path, parts: Iterable[bytes], mode: int, shown: str) -> FileReport:
    """Write a file under a temporary name, flush it and rename it. Raises `OSError`."""
    clear_partial(path)
    partial = _partial(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    digest, size = hashlib.sha256(), 0
    file = os.open(partial, flags, 0o600)
    try:
        with os.fdopen(file, "wb", closefd=False) as stream:
            for part in parts:
                stream.write(part)
                digest.update(part)
                size += len(part)
        os.fchmod(file, mode)
        os.fsync(file)
        partial.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    finally:
        os.close(file)
    flush_directory(path.parent)
    return FileReport(path=shown, size_bytes=size, sha256=digest.hexdigest())


def clear_partial(path: Path) -> None:
    """Remove what a crash left of a write to this path. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        _partial(path).unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def flush_directory(path: Path) -> None:
    """Flush the names in a directory. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def overwrite(path: Path, content: bytes) -> None:
    """Write over the bytes of a file where they are; its size must be the same.

    Its blocks stay the same, so that whoever looks at them past the file system sees the change.
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
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(27, f"has more than {limit} bytes", str(path))
    return content
