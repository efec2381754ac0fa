"""Sets up which pages are in memory and checks it with mincore(2), independently of holdfast."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.tree import MIB, PAGE, File, Tree

Mask = bytes
"""One byte a page: 1 where it is, or should be, in memory."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value

_CACHESTAT = 451
"""The same number on every architecture."""
_READERS = 16
_TRIES = 8
_TOLERANCE = 0.001
_RUN = re.compile(b"\x01+")
_LOW_BIT = bytes(value & 1 for value in range(256))
_QUARTER = bytes(value < 64 for value in range(256))


@contextmanager
def opened(path: str, flags: int = 0) -> Iterator[int]:
    """Open a file for reading for the length of a block."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def resident(file: File) -> Mask:
    """Ask the kernel which pages of a file are in memory and up to date."""
    if not file.size:
        return b""
    with opened(file.path) as fd:
        address = _libc.mmap(None, file.size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"mmap: {file.path}")
        try:
            vector = ctypes.create_string_buffer(file.pages)
            if _libc.mincore(address, file.size, vector) != 0:
                raise OSError(ctypes.get_errno(), f"mincore: {file.path}")
        finally:
            _libc.munmap(address, file.size)
    return vector.raw.translate(_LOW_BIT)


def evicted_by_kernel(file: File) -> int:
    """Count the pages of which the kernel remembers that it reclaimed them; 0 before Linux 6.5."""
    everything = (ctypes.c_uint64 * 2)(0, 0)
    counts = (ctypes.c_uint64 * 5)()
    with opened(file.path) as fd:
        if _libc.syscall(_CACHESTAT, fd, everything, counts, 0) != 0:
            if ctypes.get_errno() == errno.ENOSYS:
                return 0
            raise OSError(ctypes.get_errno(), f"cachestat: {file.path}")
    return counts[3]


def runs(mask: Mask) -> Iterator[tuple[int, int]]:
    """Go through the runs of ones as pairs of first page and number of pages."""
    for match in _RUN.finditer(mask):
        yield match.start(), match.end() - match.start()


def without(mask: Mask, other: Mask) -> Mask:
    """Return the pages of `mask` that are not in `other`."""
    both = int.from_bytes(mask, "big") & ~int.from_bytes(other, "big")
    return both.to_bytes(len(mask), "big")


@dataclass(frozen=True)
class Pattern:
    """Which pages of a tree are to be in memory: `mask(number of the file, pages)`."""

    name: str
    mask: Callable[[int, int], Mask]
    scattered: bool

    def masks(self, tree: Tree) -> list[Mask]:
        """Work the pattern out for every file of a tree."""
        return [self.mask(number, file.pages) for number, file in enumerate(tree.files)]


def _short_runs(number: int, pages: int) -> Mask:
    chance = random.Random(number)
    parts: list[bytes] = []
    made = 0
    while made < pages:
        there, gap = chance.randint(4, 16), chance.randint(4, 44)
        parts.append(b"\1" * there + b"\0" * gap)
        made += there + gap
    return b"".join(parts)[:pages]


FULL = Pattern("fully resident", lambda _, pages: b"\1" * pages, scattered=False)
HALF = Pattern(
    "half of the files", lambda number, pages: bytes([number % 2]) * pages, scattered=False
)
QUARTER = Pattern(
    "random 25 % of the pages",
    lambda number, pages: random.Random(number).randbytes(pages).translate(_QUARTER),
    scattered=True,
)
ALTERNATE = Pattern(
    "every other page", lambda _, pages: (b"\1\0" * (pages // 2 + 1))[:pages], scattered=True
)
SHORT_RUNS = Pattern("runs of 4 to 16 pages", _short_runs, scattered=True)


def evict(tree: Tree) -> None:
    """Drop every page of the tree; raises `RuntimeError` if more than a thousandth stays."""
    for file in tree.files:
        _drop(file, [(0, 0)])
    left = sum(resident(file).count(1) for file in tree.files)
    if left > _TOLERANCE * tree.pages:
        raise RuntimeError(f"{left} of {tree.pages} pages stayed in memory: are they mapped?")


def arrange(tree: Tree, masks: Sequence[Mask]) -> None:
    """Make exactly the pages of `masks` resident, and check that they are.

    Hosts reclaim what nobody uses, so call it right before each use: when nothing is to be done it
    costs a probe of every file. Raises `RuntimeError` if the kernel does not go along.
    """
    off = 0
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in range(_TRIES):
            off = sum(pool.map(_correct, tree.files, masks, chunksize=8))
            if off <= _TOLERANCE * tree.pages:
                return
    raise RuntimeError(f"{off} pages were not as wanted after {_TRIES} tries: is memory short?")


def _correct(file: File, wanted: Mask) -> int:
    """Read what is missing and drop what is too much; return how many pages were wrong before."""
    now = resident(file)
    if now == wanted:
        return 0
    missing, extra = without(wanted, now), without(now, wanted)
    if extra.count(1):
        _drop(file, [(first * PAGE, count * PAGE) for first, count in runs(extra)])
    if missing.count(1):
        _read(file, missing, whole=missing.count(1) == file.pages)
    return missing.count(1) + extra.count(1)


def _drop(file: File, ranges: Sequence[tuple[int, int]]) -> None:
    with opened(file.path) as fd:
        for offset, length in ranges:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _read(file: File, mask: Mask, *, whole: bool) -> None:
    """Read pages as a program would: a whole file with readahead, single pages without."""
    buffer = bytearray(MIB)
    with opened(file.path) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL if whole else os.POSIX_FADV_RANDOM)
        for first, count in runs(mask):
            for offset in range(first * PAGE, (first + count) * PAGE, MIB):
                length = min(MIB, (first + count) * PAGE - offset)
                os.preadv(fd, [memoryview(buffer)[:length]], offset)
