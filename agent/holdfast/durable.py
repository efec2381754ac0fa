"""Files that are there whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a file in the place of what was there; on the disk when this returns.

    One writer at a time: what a crash left behind goes first. Raises `OSError`.
    """
    replace_with(path, [content], mode)


def replace_with(path: Path, parts: Iterable[bytes], mode: int | None) -> None:
    """Put a file made of these parts in the place of what was there, as `replace_file` does.

    Without a mode it has whatever the file system gives it: FAT keeps none.
    """
    clear_partial(path)
    partial = _partial(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(partial, flags, 0o600)
    try:
        with os.fdopen(file, "wb", closefd=False) as stream:
            for part in parts:
                stream.write(part)
        if mode is not None:
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


def clear_partial(path: Path) -> None:
    """Remove what a crash left of a write to this path. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        _partial(path).unlink()


def flush_directory(path: Path) -> None:
    """Bring the names in a directory to the disk. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
