"""A store of sorted tables (RocksDB) in a process of its own: `python -m tests.bench.lsm DIR fill`.

`serve` obeys lines on standard input, and answers each with one: `draw COUNT SEED` draws keys with
a Zipf distribution, scattered over all of them; `open` opens the store; `read SECONDS` reads the
drawn keys once, or, if it is not 0, over and over for so long, and prints when reads ended: their
number by hundredths of a second since the epoch. It needs `pip install rocksdict`.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

KEYS = 6_000_000
VALUE = 200
TICK = 0.01
"""Seconds, by which reads are counted."""
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
    store, drawn = None, array("L")
    for request in sys.stdin:
        verb, *numbers = request.split()
        match verb:
            case "draw":
                count, seed = map(int, numbers)
                drawn = array("L", ranks(random.Random(seed), count, KEYS))
                print("drawn", flush=True)
            case "open":
                store = _open(directory, fill=False)
                print("ready", flush=True)
            case "read":
                print(json.dumps(_read(store, drawn, float(numbers[0]))), flush=True)


def _read(store: Any, drawn: Sequence[int], seconds: float) -> dict[str, Any]:
    ended: Counter[int] = Counter()
    began = time.time()
    for rank in cycle(drawn) if seconds else drawn:
        wanted = key(rank)
        if store.get(wanted) is None:
            raise SystemExit(f"{wanted!r} is missing")
        now = time.time()
        ended[int(now / TICK)] += 1
        if seconds and now - began > seconds:
            break
    return {"began": began, "ended": ended}


if __name__ == "__main__":
    {"fill": _fill, "serve": _serve}[sys.argv[2]](sys.argv[1])
