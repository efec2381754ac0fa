"""The sample tree of `make demo`: sizes as on a database server."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.machine.disk import drop, write_file

MIB = 1 << 20
CHUNK = 64 * MIB
"""What a verification distinguishes in a large file."""
FLIPPED, FLIPPED_AT = "tables/large-1.db", 100_000_000

# Sizes as on a database server: a few large tables, many middling ones, very many small files.
SAMPLE = (
    *((f"tables/large-{n}.db", 256 * MIB) for n in range(3)),
    *((f"tables/medium-{n:02}.db", 16 * MIB) for n in range(16)),
    *((f"index/segment-{n:03}.idx", 768 * 1024) for n in range(64)),
    *((f"small/{n % 16:02}/{n:04}.meta", 500 + 37 * n) for n in range(1024)),
    ("small/empty", 0),
)


def make_sample(root: Path) -> None:
    """Write the sample tree, and leave a part of it out of memory, as on a busy server."""
    total = sum(size for _, size in SAMPLE)
    print(f"writing {len(SAMPLE):,} files, {total / (1 << 30):.2f} GiB, to {root}", flush=True)
    chance = random.Random(2018)
    for seed, (name, size) in enumerate(SAMPLE):
        path = write_file(root / name, size, seed=seed)
        if size and chance.random() < 0.2:
            drop(path)
