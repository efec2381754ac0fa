"""The trees that the benchmarks run on: one like a database's, one of a million small files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = os.sysconf("SC_PAGESIZE")
_BLOCK = 64 * MIB
_PER_DIRECTORY = 1000


@dataclass(frozen=True)
class File:
    """One regular file."""

    path: str
    size: int

    @property
    def pages(self) -> int:
        """Pages that the file has, the last one maybe in part."""
        return -(-self.size // PAGE)


@dataclass(frozen=True)
class Tree:
    """A directory of files, in the order in which a walk meets them."""

    root: Path
    files: tuple[File, ...]

    @cached_property
    def bytes(self) -> int:
        """Bytes of all the files."""
        return sum(file.size for file in self.files)

    @cached_property
    def pages(self) -> int:
        """Pages of all the files."""
        return sum(file.pages for file in self.files)

    def __str__(self) -> str:
        return f"{len(self.files):,} files, {self.bytes / GIB:.2f} GiB"


def database_sizes(scale: float) -> Iterable[tuple[str, int]]:
    """Name the files of a tree of 8.1 GiB in 5137 files, or of a fraction of that."""

    def some(count: int) -> int:
        return max(1, round(count * scale))

    sizes = random.Random(7)
    yield "huge/table.db", max(4 * MIB, int(2 * GIB * scale))
    for n in range(some(8)):
        yield f"large/{n}.sst", 256 * MIB if scale >= 0.1 else 16 * MIB
    for n in range(some(128)):
        yield f"middling/{n % 8}/{n}.sst", 16 * MIB if scale >= 0.1 else MIB
    for n in range(some(2000)):
        yield f"log/{n % 40}/{n}.log", MIB + sizes.randrange(-200_000, 200_000)
    for n in range(some(3000)):
        yield f"index/{n % 60}/{n}.idx", sizes.randrange(1, 64 * KIB)


def small_sizes(count: int) -> Iterable[tuple[str, int]]:
    """Name `count` files of 1 to 4096 bytes, in four quarters of directories of a thousand."""
    sizes = random.Random(11)
    for n in range(count):
        quarter = n * 4 // count
        yield f"quarter-{quarter}/{n // _PER_DIRECTORY:04}/{n}.obj", sizes.randrange(1, 4097)


def make(
    root: Path, plan: Iterable[tuple[str, int]], say: Callable[[str], None], *, label: str
) -> Tree:
    """Write a tree of incompressible data to `root`, or reuse that of an earlier run."""
    complete = root.with_name(f"{root.name}.complete")
    files = tuple(File(str(root / name), size) for name, size in plan)
    tree = Tree(root, files)
    if complete.exists() and complete.read_text() == label:
        say(f"using {tree} in {root}")
        return tree
    complete.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    _require_room(root.parent, tree)
    say(f"writing {tree} to {root}")
    offsets = random.Random(3)
    block = memoryview(os.urandom(_BLOCK))
    made: set[Path] = set()
    for file in files:
        directory = Path(file.path).parent
        if directory not in made:
            directory.mkdir(parents=True, exist_ok=True)
            made.add(directory)
        _write(file, block, offsets)
    os.sync()
    complete.write_text(label)
    return tree


def _write(file: File, block: memoryview, offsets: random.Random) -> None:
    fd = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        left = file.size
        while left:
            # Differing offsets: no two files are alike to whatever deduplicates below.
            start = offsets.randrange(0, _BLOCK // 2)
            left -= os.write(fd, block[start : start + min(left, _BLOCK // 2)])
    finally:
        os.close(fd)


def _require_room(directory: Path, tree: Tree) -> None:
    free = os.statvfs(directory)
    need = sum(file.pages * PAGE for file in tree.files) * 11 // 10
    if free.f_bavail * free.f_frsize < need:
        raise RuntimeError(f"{directory} has less than the {need / GIB:.1f} GiB free that it needs")
    if free.f_files and free.f_favail < len(tree.files) * 11 // 10:
        raise RuntimeError(f"{directory} has fewer than {len(tree.files):,} inodes free")
