"""A store of sorted tables (RocksDB) in a process of its own: `python -m tests.bench.lsm DIR fill`.

`serve` reads lines of `COUNT SEED` on standard input, reads that many keys with a Zipf distribution
scattered over all of them, and prints the seconds that it took. It needs `pip install rocksdict`.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

KEYS = 6_000_000
VALUE = 200
_BATCH = 20_000
_SCATTER = 2_654_435_761
"""Coprime to the number of keys."""


def ranks(chance: random.Random, count: int, keys: int, exponent: float = 1.1) -> Iterator[int]:
    """Yield ranks from 0 with a Zipf distribution, as pgbench's random_zipfian does (Devroye)."""
    b = 2.0 ** (exponent - 1)
    while count:
        u, v = 1 - chance.random(), chance.random()
        x = math.floor(u ** (-1 / (exponent - 1)))
        t = (1 + 1 / x) ** (exponent - 1)
        if x <= keys and v * x * (t - 1) / (b - 1) <= t / b:
            yield x - 1
            count -= 1


def key(rank: int) -> bytes:
    """Return the key of a rank; neighbours in rank are far from each other."""
    return b"%012d" % (rank * _SCATTER % KEYS)


def _open(directory: str, *, fill: bool) -> Any:
    import rocksdict as r  # type: ignore[import-not-found, unused-ignore]

    options = r.Options(raw_mode=True)
    options.create_if_missing(fill)
    options.set_compression_type(r.DBCompressionType.none())
    options.set_write_buffer_size(32 << 20)
    table = r.BlockBasedOptions()
    table.set_block_cache(r.Cache(32 << 20))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    access = r.AccessType.read_write() if fill else r.AccessType.read_only()
    return r.Rdict(directory, options, access_type=access)


def _fill(directory: str) -> None:
    import rocksdict as r  # type: ignore[import-not-found, unused-ignore]

    store = _open(directory, fill=True)
    write = r.WriteOptions()
    write.disable_wal = True  # type: ignore[method-assign, assignment, unused-ignore]
    chance = random.Random(3)
    for first in range(0, KEYS, _BATCH):
        values = chance.randbytes(VALUE * _BATCH)
        batch = r.WriteBatch(raw_mode=True)
        for nth in range(_BATCH):
            batch.put(b"%012d" % (first + nth), values[nth * VALUE : (nth + 1) * VALUE])
        store.write(batch, write)
    store.flush()
    store.compact_range(None, None)
    store.close()


def _serve(directory: str) -> None:
    store = _open(directory, fill=False)
    print("ready", flush=True)
    for request in sys.stdin:
        count, seed = map(int, request.split())
        keys = [key(rank) for rank in ranks(random.Random(seed), count, KEYS)]
        began = time.monotonic()
        for each in keys:
            if store.get(each) is None:
                raise SystemExit(f"{each!r} is missing")
        print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    {"fill": _fill, "serve": _serve}[sys.argv[2]](sys.argv[1])
