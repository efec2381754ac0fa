"""A tree such as databases leave behind: thousands of files, and one with half of all bytes."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tests.bench.tree import GIB, KIB, MIB

SHARE_OF_LARGEST = 0.4
LEAST_BYTES = 10 * GIB
LEAST_FILES = 3000


def skewed_sizes(scale: float) -> Iterable[tuple[str, int]]:
    """Name the files of a tree of 10.6 GiB in 3570 files, or of a fraction of that.

    The largest holds nearly half of the bytes: a reader with one thread for each file is as slow as
    one thread is, and ends with the others idle.
    """

    def some(count: int) -> int:
        return max(1, round(count * scale))

    sizes = random.Random(13)
    yield "tables/largest.db", max(8 * MIB, int(5 * GIB * scale))
    for n in range(some(10)):
        yield f"tables/{n}.sst", 256 * MIB if scale >= 0.1 else 16 * MIB
    for n in range(some(59)):
        yield f"middling/{n % 6}/{n}.sst", 32 * MIB + sizes.randrange(-5 * MIB, 5 * MIB)
    for n in range(some(1000)):
        yield f"log/{n % 40}/{n}.log", MIB + sizes.randrange(-200_000, 200_000)
    for n in range(some(2500)):
        yield f"index/{n % 50}/{n}.idx", sizes.randrange(1, 64 * KIB)
