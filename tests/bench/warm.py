"""Which part of the pages: what a datastore finds in memory after a load that had a budget.

A store works for a while on a node whose memory holds a part of its data, with a dump after each
stretch. Then it is started there on what a budget of the last dump's pages holds, chosen in one
order or another and loaded by the daemon, and does the same kind of work with another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.bench.context import Context
from tests.bench.daemon import operate, serving
from tests.bench.figures import Section, interleave
from tests.bench.limits import ReadLimit, read_limit
from tests.bench.peers import HAPPYCACHE_RECORD, happycache_files
from tests.bench.residency import Mask, arrange, evict, resident
from tests.bench.stores import Postgres, RocksDb, Store
from tests.bench.tree import MIB, PAGE, Tree
from tests.support.daemon.harness import Daemon
from tests.support.machine.mounts import memory_group

BUDGETS = (25, 50, 75)
STRETCHES = 6
MEMORY = 576 * MIB
"""Of the node: the store and its page cache, and the daemon, which takes about 100 MiB."""
_RESERVE = 128 * MIB
"""What a load leaves to the store itself."""
READ_CALLS, READ_RATE = 3000, 125 * MIB
"""In a second, as the smallest gp3 volume of EC2."""
_LEARN, _TRY = 50_000, 30_000
_SEED = 999
_FIRST_SECONDS = 3.0
_OURS, _SHARE = "six dumps", "one dump, an even share"
_RANDOM, _FILES, _PEER = "random pages", "file order", "happycache's order"

Page = tuple[int, int]
"""Number of the file and number of the page."""


@dataclass(frozen=True)
class Node:
    """A store and a daemon within the limits of a small machine."""

    store: Store
    tree: Tree
    daemon: Daemon
    reads: ReadLimit

    def evict(self) -> None:
        """Drop every page."""
        evict(self.tree)

    def dump(self) -> str:
        """Record what is in memory; return the id."""
        found: str = operate(self.daemon, "/v1/pagecache/dumps", {}).result["dump"]
        return found

    def load(self, dump: str, **how: Any) -> Mapping[str, Any]:
        """Load a dump; return the result."""
        return operate(self.daemon, "/v1/pagecache/loads", {"dump": dump} | how).result

    def masks(self) -> list[Mask]:
        """Ask the kernel for every file."""
        return [resident(file) for file in self.tree.files]


@dataclass(frozen=True)
class Served:
    """One start of a store: what was there, and how it did at first."""

    there: float
    """The share of the needed pages that was in memory."""
    first: float
    """Reads in a second, in the first seconds or until the last one."""
    seconds: float
    read: int

    def __str__(self) -> str:
        return (
            f"{self.there:.2f} there, {self.first:,.0f} a second at first, "
            f"{self.seconds:.2f} s, {self.read / MIB:.0f} MiB read"
        )


def benchmark(context: Context) -> Iterator[Section]:
    """Measure each store that is installed here."""
    from tests.bench.warm_start import starts

    for store in stores(context):
        context.say(f"warm: data of {store.name}")
        store.prepare()
        with node(context, store) as made:
            dumps, last = learn(context, made)
            yield _warm(context, made, dumps, sorted(pages(last)))
            yield from starts(context, made, dumps[-1])


def stores(context: Context) -> list[Store]:
    """Return the stores that are installed here."""
    work = context.work / "stores"
    work.mkdir(exist_ok=True)
    # The server of PostgreSQL is another user.
    for directory in (context.work, work):
        directory.chmod(0o755)
    found: list[Store] = []
    if Postgres.is_here():
        found.append(Postgres(work / "pg", max(1, round(100 * context.scale))))
    if RocksDb.is_here():
        found.append(RocksDb(work / "rocks"))
    if not found:
        context.say("warm: neither PostgreSQL nor rocksdict is installed")
    return found


@contextmanager
def node(context: Context, store: Store) -> Iterator[Node]:
    """Run a daemon for a store in a control group that has the node's memory."""
    # Starting may write files of its own, and what is not yet written stays in memory.
    store.start()
    store.stop()
    os.sync()
    settings = {"pagecache": {"reserve_bytes": _RESERVE, "dumps_kept": 100}}
    with (
        read_limit(context.work) as reads,
        memory_group() as memory,
        serving(store.directory, context.work, **settings) as daemon,
    ):
        memory.limit(MEMORY)
        memory.add(daemon.pid)
        store.groups = [memory.directory / "cgroup.procs", reads.processes]
        try:
            yield Node(store, store.tree(), daemon, reads)
        finally:
            store.groups = []


def learn(context: Context, node: Node) -> tuple[list[str], list[Mask]]:
    """Let the store work, with a dump after each stretch.

    Return the dumps' ids, and what was in memory at the last.
    """
    node.evict()
    node.store.start()
    dumps, last = [], []
    for stretch in range(STRETCHES):
        work = node.store.work(_LEARN, 100 + stretch)
        dumps.append(node.dump())
        last = node.masks()
        there = sum(mask.count(1) for mask in last)
        context.say(f"{node.store.name}: stretch {stretch}: {work.seconds:.1f} s, {there:,} pages")
    node.store.stop()
    return dumps, last


def pages(found: Sequence[Mask]) -> set[Page]:
    """Return the pages of masks as a set."""
    return {(n, page) for n, mask in enumerate(found) for page, there in enumerate(mask) if there}


def masks_of(tree: Tree, chosen: Sequence[Page]) -> list[Mask]:
    """Return masks of a set of pages."""
    made = [bytearray(file.pages) for file in tree.files]
    for number, page in chosen:
        made[number][page] = 1
    return [bytes(mask) for mask in made]


def _orders(context: Context, node: Node, last: Sequence[Page]) -> dict[str, list[Page]]:
    """Sort the pages of the last dump as others would load them."""
    by_number = sorted(last)
    found = {_RANDOM: random.Random(7).sample(by_number, len(by_number)), _FILES: by_number}
    if context.happycache is not None:
        arrange(node.tree, masks_of(node.tree, by_number))
        context.happycache.dump(node.store.directory)
        record = context.work / HAPPYCACHE_RECORD
        context.happycache.take_record(node.store.directory, record)
        rank = {str(node.store.directory / name): n for n, name in
                enumerate(happycache_files(record))}  # fmt: skip
        places = [rank.get(file.path, len(rank)) for file in node.tree.files]
        found[_PEER] = sorted(by_number, key=lambda page: (places[page[0]], page))
    return found


def _warm(context: Context, node: Node, dumps: Sequence[str], last: Sequence[Page]) -> Section:
    needed = _needed(node) & set(last)
    total = len(last) * PAGE
    expected: dict[str, float] = {}

    def trial(load: Callable[[], Any]) -> Callable[[], Served]:
        def run() -> Served:
            node.evict()
            load()
            there = len(needed & pages(node.masks())) / len(needed)
            return _serve(node, there)

        return run

    def ours(name: str, order: str, budget: int) -> None:
        loaded = node.load(dumps[-1], budget_bytes=total * budget // 100, order=order)
        expected[name] = loaded["expected_hits"] or 0.0

    contenders = {
        "cold": trial(lambda: None),
        "all, as far as memory allows": trial(partial(node.load, dumps[-1])),
    }
    for budget in BUDGETS:
        for label, how in ((_OURS, "auto"), (_SHARE, "share")):
            name = f"{budget} %, {label}"
            contenders[name] = trial(partial(ours, name, how, budget))
    for label, order in _orders(context, node, last).items():
        for budget in BUDGETS:
            chosen = order[: len(order) * budget // 100]
            arrange(node.tree, masks_of(node.tree, chosen))
            contenders[f"{budget} %, {label}"] = trial(partial(node.load, node.dump()))
    results = interleave(contenders, context.rounds, context.say)
    return _section(node, last, needed, results, expected)


def _needed(node: Node) -> set[Page]:
    """Return the pages that the first reads of a cold start bring into memory."""
    node.evict()
    node.store.start()
    node.store.work(_TRY, _SEED)
    found = pages(node.masks())
    node.store.stop()
    return found


def _serve(node: Node, there: float) -> Served:
    """Start the store on what is in memory, and let it work with another seed."""
    node.reads.limit(READ_CALLS, READ_RATE)
    try:
        node.store.start()
        work = node.store.work(_TRY, _SEED)
        span = min(_FIRST_SECONDS, work.seconds)
        first = work.between(work.began, work.began + span) / span
        return Served(there, first, work.seconds, node.store.stop())
    finally:
        node.reads.limit(0, 0)


def _section(
    node: Node,
    last: Sequence[Page],
    needed: set[Page],
    results: Mapping[str, Sequence[Served]],
    expected: Mapping[str, float],
) -> Section:
    section = Section(
        f"Which part of the pages, {node.store.name}",
        f"{node.tree} on a node of {MEMORY // MIB} MiB. {STRETCHES} times {_LEARN:,} reads of rows "
        f"with a Zipf distribution (1.1), a dump after each: the last one has {len(last):,} pages. "
        f"Then {_TRY:,} reads with another seed, which from a cold start need {len(needed):,} of "
        f"them, while the store may make {READ_CALLS:,} reads of the device and read "
        f"{READ_RATE // MIB} MiB in a second.",
        f"reads in a second, in the first {_FIRST_SECONDS:g} s",
    )
    for name, served in results.items():
        there, seconds, read = (
            _median([getattr(each, of) for each in served]) for of in ("there", "seconds", "read")
        )
        hits = f" (expected {expected[name]:.2f})" if expected.get(name) else ""
        section.add(
            name,
            [each.first for each in served],
            f"{there:.2f} of the needed pages there{hits}; {seconds:.2f} s and "
            f"{read / MIB:.0f} MiB read for all",
        )
    return section


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
