"""Opens what lies below a directory part by part: no link leads out of it, nor anywhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_directory(path: Path) -> int:
    """Open a directory that is not a symbolic link itself; the caller closes it.

    Links among its parents are followed. Raises `OSError`.
    """
    return os.open(path, _DIRECTORY)


def open_directory_beneath(top: int, relative: str) -> int:
    """Open a directory below `top`, following no link; the caller closes it. Raises `OSError`."""
    current = os.dup(top)
    for part in _parts(relative):
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = inner
    return current


def open_file_beneath(top: int, relative: str) -> int:
    """Open a regular file below `top`, following no link; the caller closes it.

    A FIFO or a device is not waited for, and nothing is read from it. Raises `OSError`.
    """
    *parents, name = _parts(relative)
    directory = open_directory_beneath(top, "/".join(parents))
    try:
        file = os.open(name, _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    return regular(file, relative)


def read_file_beneath(top: int, relative: str, limit: int) -> bytes:
    """Read a regular file below `top` of at most `limit` bytes. Raises `OSError`."""
    return read_all(open_file_beneath(top, relative), relative, limit)


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file that is no symbolic link, of at most `limit` bytes. Raises `OSError`."""
    return read_all(regular(os.open(path, _FILE), str(path)), str(path), limit)


def read_all(file: int, shown: str, limit: int) -> bytes:
    """Read an open file of at most `limit` bytes, and close it. Raises `OSError`."""
    with os.fdopen(file, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit} bytes", shown)
    return content


def regular(file: int, shown: str) -> int:
    """Return an open file if it is a regular one; close it and raise `OSError` otherwise."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is not a regular file", shown)
    return file


def _parts(relative: str) -> list[str]:
    parts = [part for part in PurePosixPath(relative).parts if part != "/"]
    if ".." in parts:
        raise OSError(errno.EINVAL, "leads out of the directory", relative)
    return parts
