"""Files that are there whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_MOST_LINKS = 40
"""As many links as the kernel follows."""
_OPEN_FILE = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd")


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


def write_output(path: Path, parts: Iterable[bytes], mode: int | None = None) -> int:
    """Write what a user asked for to a path that the user named; return how many bytes.

    A regular file is there whole in the end, or as it was before, also behind symbolic links. An
    existing file that is none, such as a device, a FIFO or an open file in `/proc`, is written to
    in place. Without a mode a new file has that of the process. Raises `OSError`.
    """
    written = 0

    def counted() -> Iterator[bytes]:
        nonlocal written
        for part in parts:
            written += len(part)
            yield part

    target = linked_file(path)
    if target is None:
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "wb") as stream:
            for part in counted():
                stream.write(part)
    else:
        replace_with(target, counted(), mode if mode is not None else 0o666 & ~_umask())
    return written


def linked_file(path: Path) -> Path | None:
    """Return the regular file behind symbolic links, which need not be there yet.

    None for what is there and cannot be replaced by a file: a device, a FIFO, an open file of
    `/proc/PID/fd`. Raises `OSError`.
    """
    for _ in range(_MOST_LINKS):
        if _OPEN_FILE.fullmatch(os.path.realpath(path.parent)):
            return None
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        regular = True
    return Path(os.path.realpath(path.parent)) / path.name if regular else None


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory with its parents, each of which is on the disk when this returns.

    Harmless where it is there already. Raises `OSError`.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=mode)
            directory.chmod(mode)  # whatever the umask is
        flush_directory(directory.parent)


def clear_partial(path: Path) -> None:
    """Remove what a crash left of a write to this path. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        _partial(path).unlink()


def flush_directory(path: Path) -> None:
    """Flush the names in a directory to the disk. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    """Return the process's mask for new files, without changing it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
