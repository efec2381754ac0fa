"""Which half of the pages: what a datastore finds in memory after a load that had a budget.

A store works for a while under a limit on memory, with a dump after each stretch. Then it is
started on what a budget of the last dump's pages holds, chosen in one order or another, and does
the same kind of work with another seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

from tests.bench.context import Context
from tests.bench.daemon import operate, serving
from tests.bench.figures import Section, interleave
from tests.bench.residency import Mask, arrange, evict, resident
from tests.bench.stores import Postgres, RocksDb, Store
from tests.bench.tree import MIB, PAGE, Tree
from tests.support.mounts import memory_group

BUDGETS = (25, 50, 75)
_STRETCHES = 6
_LIMIT = 448 * MIB
_LEARN, _TRY = 50_000, 30_000
_SEED = 999
_RANDOM, _FILES, _OURS = "random pages", "file order, as happycache's", "holdfast's budget"

Page = tuple[int, int]
"""Number of the file and number of the page."""


@dataclass(frozen=True)
class Served:
    """One start of a store: how it did at first."""

    seconds: float
    read: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.read / MIB:.0f} MiB read"


def benchmark(context: Context) -> Iterator[Section]:
    """Measure each store that is installed here."""
    work = context.work / "stores"
    work.mkdir(exist_ok=True)
    # The server of PostgreSQL is another user.
    for directory in (context.work, work):
        directory.chmod(0o755)
    stores: list[Store] = []
    if Postgres.is_here():
        stores.append(Postgres(work / "pg", max(1, round(100 * context.scale))))
    if RocksDb.is_here():
        stores.append(RocksDb(work / "rocks"))
    if not stores:
        context.say("warm: neither PostgreSQL nor rocksdict is installed")
    for store in stores:
        context.say(f"warm: data of {store.name}")
        store.prepare()
        yield _warm(context, store)


def masks(tree: Tree) -> list[Mask]:
    """Ask the kernel for every file."""
    return [resident(file) for file in tree.files]


def pages(found: Sequence[Mask]) -> set[Page]:
    """Return the pages of masks as a set."""
    return {(n, page) for n, mask in enumerate(found) for page, there in enumerate(mask) if there}


def masks_of(tree: Tree, chosen: Sequence[Page]) -> list[Mask]:
    """Return masks of a set of pages."""
    made = [bytearray(file.pages) for file in tree.files]
    for number, page in chosen:
        made[number][page] = 1
    return [bytes(mask) for mask in made]


@contextmanager
def confined(store: Store, limit: int) -> Iterator[None]:
    """Run a store under a limit on memory, of which its page cache is a part."""
    with memory_group() as group:
        group.limit(limit)
        pid = store.start()
        group.add(pid)
        yield


def orders(tree: Tree, dumps: Sequence[Sequence[Mask]]) -> Mapping[str, list[Page]]:
    """Sort the pages of the last dump, those first that a small budget would load."""
    last = sorted(pages(dumps[-1]))
    chance = random.Random(7)
    shuffled = chance.sample(last, len(last))
    times = {page: sum(dump[page[0]][page[1]] for dump in dumps) for page in last}
    stays = [_stays([dump[number] for dump in dumps]) for number in range(len(tree.files))]
    return {
        _RANDOM: shuffled,
        _FILES: last,
        "in how many dumps": sorted(shuffled, key=lambda page: -times[page]),
        "and how many of its file's pages stay": sorted(
            shuffled, key=lambda page: -times[page] * stays[page[0]] ** 2
        ),
    }


def _stays(history: Sequence[Mask]) -> float:
    """The share of a file's pages in one dump that are also in the next."""
    both = before = 0
    for one, other in pairwise(history):
        both += (int.from_bytes(one, "big") & int.from_bytes(other, "big")).bit_count()
        before += one.count(1)
    return both / max(before, 1)


def _learn(context: Context, store: Store, tree: Tree) -> list[list[Mask]]:
    """Let the store work under the limit, and look after each stretch."""
    evict(tree)
    dumps = []
    with confined(store, _LIMIT):
        for stretch in range(_STRETCHES):
            seconds = store.work(_LEARN, 100 + stretch)
            dumps.append(masks(tree))
            there = sum(mask.count(1) for mask in dumps[-1])
            context.say(f"{store.name}: stretch {stretch}: {seconds:.1f} s, {there:,} pages")
        store.stop()
    return dumps


def _try(store: Store) -> Served:
    """Start the store on what is in memory, and let it work with another seed."""
    store.start()
    seconds = store.work(_TRY, _SEED)
    return Served(seconds, store.stop())


def _warm(context: Context, store: Store) -> Section:
    # Starting may write files of its own.
    store.start()
    store.stop()
    tree = store.tree()
    dumps = _learn(context, store, tree)
    sorted_pages = orders(tree, dumps)
    last = masks_of(tree, sorted_pages[_FILES])
    ours = _ours(context, store, tree, last)

    def trial(found: Sequence[Mask]) -> Callable[[], Served]:
        def run() -> Served:
            arrange(tree, found)
            return _try(store)

        return run

    nothing = [bytes(file.pages) for file in tree.files]
    contenders = {"cold": trial(nothing), "everything": trial(last)}
    for budget, found in ours.items():
        contenders[f"{_OURS} of {budget} %"] = trial(found)
        count = len(sorted_pages[_FILES]) * budget // 100
        for order in (_RANDOM, _FILES):
            contenders[f"{budget} %, {order}"] = trial(masks_of(tree, sorted_pages[order][:count]))
    trial(nothing)()
    needed = pages(masks(tree)) & set(sorted_pages[_FILES])
    results = interleave(contenders, max(1, context.rounds // 2), context.say)

    section = Section(
        f"Which half of the pages, {store.name}",
        f"{tree}; {_STRETCHES} times {_LEARN:,} reads of rows with a Zipf distribution (1.1), "
        f"under a limit of {_LIMIT // MIB} MiB: {len(sorted_pages[_FILES]):,} pages were in memory "
        f"at the end. {_TRY:,} reads from a cold start with another seed needed {len(needed):,} "
        "of them.",
        f"seconds for the first {_TRY:,} reads",
    )
    for name, served in results.items():
        read = sorted(each.read for each in served)[len(served) // 2]
        section.add(name, [each.seconds for each in served], f"{read / MIB:.0f} MiB read")
    section.notes += _coverage(sorted_pages, ours, needed)
    return section


def _ours(
    context: Context, store: Store, tree: Tree, last: Sequence[Mask]
) -> dict[int, list[Mask]]:
    """Load a dump of these pages with each budget, and return what came into memory."""
    found = {}
    total = sum(mask.count(1) for mask in last)
    with ExitStack() as stack:
        settings = {"reserve_bytes": "128MiB"}
        daemon = stack.enter_context(serving(store.root, context.work, pagecache=settings))
        arrange(tree, last)
        dump = operate(daemon, "/v1/pagecache/dumps", {}).result["dump"]
        for budget in BUDGETS:
            evict(tree)
            body = {"dump": dump, "budget_bytes": total * PAGE * budget // 100}
            operate(daemon, "/v1/pagecache/loads", body)
            found[budget] = masks(tree)
    return found


def _coverage(
    sorted_pages: Mapping[str, list[Page]], ours: Mapping[int, list[Mask]], needed: set[Page]
) -> Iterator[str]:
    for order, chosen in sorted_pages.items():
        shares = [
            len(needed.intersection(chosen[: len(chosen) * budget // 100])) / len(needed)
            for budget in BUDGETS
        ]
        yield f"Needed pages that were there, {order}: {_shares(shares)}."
    shares = [len(needed & pages(ours[budget])) / len(needed) for budget in BUDGETS]
    yield f"Needed pages that were there, {_OURS}: {_shares(shares)}."


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(
        f"{share:.2f} at {budget} %" for budget, share in zip(BUDGETS, shares, strict=True)
    )
