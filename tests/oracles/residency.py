"""The judge of residency: asks the kernel by itself, and makes exact patterns of resident pages.

Unpinned pages may be reclaimed at any moment, so tests pin what must be found, and probe at once
where they cannot pin.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = mmap.PAGESIZE
_WINDOW = 1 << 16  # pages probed in one mapping
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def _mapped(path: Path | bytes, first: int, pages: int) -> Iterator[int]:
    """Map pages of a file for reading, and give the address."""
    fd = os.open(path, os.O_RDONLY)
    try:
        address = _libc.mmap(None, pages * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, first * PAGE)
    finally:
        os.close(fd)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    try:
        yield address
    finally:
        _check(_libc.munmap(address, pages * PAGE))


def page_count(path: Path | bytes) -> int:
    """Return how many pages a file has."""
    return -(-os.stat(path).st_size // PAGE)  # noqa: PTH116  # names may be bytes


def resident_pages(path: Path | bytes) -> set[int]:
    """Ask mincore(2) which pages of a file are in memory."""
    found: set[int] = set()
    total = page_count(path)
    for first in range(0, total, _WINDOW):
        pages = min(_WINDOW, total - first)
        vector = ctypes.create_string_buffer(pages)
        with _mapped(path, first, pages) as address:
            _check(_libc.mincore(address, pages * PAGE, vector))
        found.update(first + nth for nth, byte in enumerate(vector.raw) if byte & 1)
    return found


def evict(path: Path | bytes) -> None:
    """Drop all pages of a file; nobody may map it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def make_resident(path: Path | bytes, pages: Iterable[int]) -> None:
    """Make exactly these pages resident, by reading a byte of each, and no others."""
    evict(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for page in pages:
            os.pread(fd, 1, page * PAGE)
    finally:
        os.close(fd)


@contextmanager
def pinned(path: Path | bytes, pages: Iterable[int] | None = None) -> Iterator[frozenset[int]]:
    """Lock exactly these pages of a file (or all) in memory, and have no others of it there.

    Needs CAP_IPC_LOCK for more than a few MiB.
    """
    chosen = sorted(set(range(page_count(path)) if pages is None else pages))
    evict(path)
    if not chosen:
        yield frozenset()
        return
    total = page_count(path)
    with _mapped(path, 0, total) as address:
        # Faults must read one page and not its neighbours.
        _check(_libc.madvise(address, total * PAGE, mmap.MADV_RANDOM))
        for first, count in runs(chosen):
            _check(_libc.mlock(address + first * PAGE, count * PAGE))
        yield frozenset(chosen)


def runs(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Group ascending page numbers into runs of first page and count."""
    found: list[tuple[int, int]] = []
    for page in pages:
        if found and sum(found[-1]) == page:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((page, 1))
    return found
