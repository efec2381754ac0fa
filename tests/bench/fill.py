"""The fastest way to fill the page cache that can be found here: the bar for holdfast's load.

A sweep over system calls, call sizes, numbers of threads and orders of files. What a method needs
to know beforehand (the pages, the order) it gets for free, so that the bar is rather too high.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.residency import Mask, opened, runs
from tests.bench.tree import KIB, MIB, PAGE, File, Tree

_PIECE = 64 * MIB
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_HEAD = "=QQIIII"
_FIEMAP_EXTENT = 56

Issue = Callable[[int, int, int, memoryview], object]
"""Called with a descriptor, an offset, a length and a buffer of at least that length."""


def _advise(fd: int, offset: int, length: int, _: memoryview) -> None:
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def _read(fd: int, offset: int, length: int, buffer: memoryview) -> None:
    os.preadv(fd, [buffer[:length]], offset)


CALLS: dict[str, Issue] = {"fadvise": _advise, "pread": _read}


@dataclass(frozen=True)
class Method:
    """One way to fill."""

    call: str
    chunk: int
    threads: int
    order: str

    def __str__(self) -> str:
        return f"{self.call} {self.chunk // KIB} KiB x {self.threads}, {self.order} order"


WHOLE = (
    Method("fadvise", 1 * MIB, 1, "walk"),
    Method("fadvise", 256 * KIB, 1, "physical"),
    Method("fadvise", 1 * MIB, 1, "physical"),
    Method("fadvise", 4 * MIB, 1, "physical"),
    Method("fadvise", 1 * MIB, 2, "physical"),
    Method("fadvise", 1 * MIB, 4, "physical"),
    Method("pread", 256 * KIB, 16, "physical"),
    Method("pread", 1 * MIB, 4, "physical"),
)
SCATTERED = (
    Method("fadvise", 1 * MIB, 1, "walk"),
    Method("fadvise", 1 * MIB, 1, "physical"),
    Method("fadvise", 1 * MIB, 4, "physical"),
    Method("pread", 256 * KIB, 16, "physical"),
)


@dataclass(frozen=True)
class _Piece:
    path: str
    ranges: Sequence[tuple[int, int]]
    sparse: bool


class Filler:
    """Everything to fill, worked out once."""

    def __init__(self, tree: Tree, masks: Sequence[Mask]) -> None:
        self.pieces: dict[str, list[_Piece]] = {}
        numbered = list(zip(tree.files, masks, strict=True))
        for name, key in {"walk": None, "physical": _physical}.items():
            order = numbered if key is None else sorted(numbered, key=lambda pair: key(pair[0]))
            self.pieces[name] = [piece for file, mask in order for piece in _pieces(file, mask)]

    def fill(self, method: Method) -> None:
        """Issue everything; with fadvise, the device is still reading when this returns."""
        todo = iter(self.pieces[method.order])
        workers = [
            threading.Thread(target=_work, args=(method, todo)) for _ in range(method.threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def _work(method: Method, todo: Iterator[_Piece]) -> None:
    issue = CALLS[method.call]
    buffer = memoryview(bytearray(method.chunk))
    for piece in todo:  # a list's iterator hands each piece to one thread only
        with opened(piece.path) as fd:
            if piece.sparse:  # or reading would fetch what lies between
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for start, end in piece.ranges:
                for offset in range(start, end, method.chunk):
                    issue(fd, offset, min(method.chunk, end - offset), buffer)


def _pieces(file: File, mask: Mask) -> Iterator[_Piece]:
    """Cut the wanted ranges of a file at every 64 MiB, so that threads can share a large one."""
    step = _PIECE // PAGE
    for base in range(0, file.pages, step):
        ranges = [
            ((base + first) * PAGE, (base + first + count) * PAGE)
            for first, count in runs(mask[base : base + step])
        ]
        if ranges:
            sparse = b"\0" in mask[base : base + step]
            yield _Piece(file.path, ranges, sparse)


def _physical(file: File) -> int:
    """Return where on the device a file begins; 0 where the file system does not report it."""
    request = array.array("B", bytes(struct.calcsize(_FIEMAP_HEAD) + _FIEMAP_EXTENT))
    struct.pack_into(_FIEMAP_HEAD, request, 0, 0, 2**64 - 1, 0, 0, 1, 0)
    with opened(file.path) as fd:
        try:
            fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        except OSError:
            return 0
    physical: int = struct.unpack_from("=QQ", request, struct.calcsize(_FIEMAP_HEAD))[1]
    return physical
