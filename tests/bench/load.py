"""Loading: how long until the pages of a dump are back in memory, and whether it is those."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.context import Context
from tests.bench.daemon import Operation, operate, serving
from tests.bench.figures import Section, Series, Verdict, at_least, interleave
from tests.bench.fill import SCATTERED, WHOLE, Filler, Method
from tests.bench.peers import Happycache, fio_direct, vmtouch_load
from tests.bench.residency import (
    ALTERNATE,
    FULL,
    HALF,
    QUARTER,
    SHORT_RUNS,
    Mask,
    Pattern,
    arrange,
    evict,
    evicted_by_kernel,
    resident,
    without,
)
from tests.bench.tree import PAGE, Tree
from tests.support.daemon.harness import Daemon

SHARE_OF_BEST = 0.95
TIMES_VMTOUCH = 3.0
RECALL = 0.999
SURPLUS = 0.01
# Hosts reclaim the memory that a virtual machine freed and return it page by page; the pause
# from eviction to load is the same for everyone, so that this costs everyone the same.
_PAUSE_SECONDS = 1.0
_FINALISTS = 2
_PATTERNS = (FULL, HALF, QUARTER, ALTERNATE, SHORT_RUNS)


@dataclass(frozen=True)
class Loaded:
    """One load, until the device had completed every read it caused."""

    seconds: float
    issued_seconds: float
    """Until the process or operation reported its end."""
    recall: float
    surplus: float
    """Pages resident that nobody asked for, as a share of those asked for."""
    reclaimed: float
    """Pages asked for that were there and that the kernel has reclaimed again, as such a share."""
    own: Operation | None = None
    """The operation, where it was one of holdfast."""

    @property
    def proven(self) -> float:
        """The share of the pages asked for that was loaded, whatever was reclaimed since.

        Never more than what holdfast itself found at its end, where it looked.
        """
        found = self.recall + self.reclaimed
        return found if self.own is None else min(found, self.own.result["recall"])

    def __str__(self) -> str:
        return (
            f"{self.seconds:.3f} s, said to be done after {self.issued_seconds:.3f}, "
            f"recall {self.recall:.4%} ({self.proven:.4%} loaded), surplus {self.surplus:.3%}"
        )


class Bench:
    """One pattern to be loaded again and again."""

    def __init__(self, context: Context, masks: Sequence[Mask]) -> None:
        self.context = context
        self.masks = masks
        self.wanted = sum(mask.count(1) for mask in masks)

    def measure(self, load: Callable[[], Operation | None]) -> Loaded:
        """Evict everything, load, wait for the device, and compare with what was asked for."""
        tree = self.context.tree
        evict(tree)
        time.sleep(_PAUSE_SECONDS)
        self.context.wait_for_device()
        began = time.monotonic()
        own = load()
        issued = time.monotonic()
        ended = max(issued, self.context.wait_for_device())
        present, surplus, reclaimed = _compare(tree, self.masks)
        return Loaded(
            seconds=ended - began,
            issued_seconds=issued - began,
            recall=present / self.wanted,
            surplus=surplus / self.wanted,
            reclaimed=reclaimed / self.wanted,
            own=own,
        )


def benchmark(context: Context) -> Iterator[Section]:
    """Load the tree in each of the states that it may have been in."""
    with serving(context.tree.root, context.work, pagecache={"reserve_bytes": "128MiB"}) as daemon:
        for pattern in _PATTERNS:
            yield _load(context, daemon, pattern)


def _load(context: Context, daemon: Daemon, pattern: Pattern) -> Section:
    tree, happycache = context.tree, context.happycache
    masks = pattern.masks(tree)
    bench = Bench(context, masks)
    evict(tree)
    arrange(tree, masks)
    dump = operate(daemon, "/v1/pagecache/dumps", {}).result["dump"]
    record = context.work / "happycache.gz"
    if happycache is not None:
        happycache.dump(tree.root)
        happycache.take_record(tree.root, record)

    def by_daemon() -> Operation:
        return operate(daemon, "/v1/pagecache/loads", {"dump": dump})

    filler = Filler(tree, masks)
    best, notes = _sweep(bench, filler, SCATTERED if pattern.scattered else WHOLE)
    contenders: dict[str, Callable[[], Loaded]] = {"holdfast": partial(bench.measure, by_daemon)}
    for method in best:
        contenders[str(method)] = partial(bench.measure, partial(filler.fill, method))
    if happycache is not None:
        contenders["happycache"] = partial(bench.measure, _happycache(happycache, tree, record))
    if pattern is FULL:
        contenders["vmtouch -t"] = partial(bench.measure, _vmtouch(tree))
    found = interleave(contenders, context.rounds, context.say)

    section = Section(
        f"Load, {pattern.name}",
        f"{tree}; {bench.wanted:,} pages ({bench.wanted * PAGE / 2**30:.2f} GiB) to load, all of "
        f"them evicted {_PAUSE_SECONDS:g} s before. Everyone's time ends when the device has "
        "answered the last read; recall and surplus are looked up with mincore after that.",
        "seconds",
        notes=notes,
    )
    _judge(section, found, [str(method) for method in best])
    if pattern is FULL:
        rate = fio_direct(max(tree.files, key=lambda file: file.size).path, 5)
        section.notes.append(f"The device past the page cache (fio, 1 MiB x 16): {_rate(rate)}.")
    return section


def _happycache(program: Happycache, tree: Tree, record: Path) -> Callable[[], None]:
    def load() -> None:
        program.load(tree.root, record)

    return load


def _vmtouch(tree: Tree) -> Callable[[], None]:
    def load() -> None:
        vmtouch_load(tree.root)

    return load


def _sweep(
    bench: Bench, filler: Filler, methods: Sequence[Method]
) -> tuple[list[Method], list[str]]:
    """Try every method once and return the best ones, and a line on all of them."""
    found = {}
    for method in methods:
        found[method] = bench.measure(partial(filler.fill, method))
        bench.context.say(f"sweep: {method}: {found[method]}")
    ranked = sorted(methods, key=lambda method: found[method].seconds)
    line = "; ".join(
        f"{method}: {_rate(bench.wanted * PAGE / found[method].seconds)}" for method in ranked
    )
    return ranked[:_FINALISTS], [f"Sweep of buffered fills, one run each: {line}."]


def _judge(section: Section, found: dict[str, list[Loaded]], fills: Sequence[str]) -> None:
    series: dict[str, Series] = {}
    for name, loads in found.items():
        worst = min(load.proven for load in loads)
        series[name] = section.add(
            name if name not in fills else f"best fills: {name}",
            [load.seconds for load in loads],
            f"recall at least {worst:.3%} loaded",
        )
    ours = found["holdfast"]
    section.add("holdfast, the operation", [load.own.seconds for load in ours if load.own])
    bars = [*fills, *(["happycache"] if "happycache" in found else [])]
    best = min(bars, key=lambda name: series[name].median)
    mine = series["holdfast"].median
    section.verdicts.append(
        at_least("rate", series[best].median / mine, SHARE_OF_BEST, of=f"the best ({best})")
    )
    if "happycache" in found:
        section.notes.append(
            f"Against happycache: {series['happycache'].median / mine:.2f} x; its process ends "
            "earlier, with reads still under way: "
            f"{sorted(load.issued_seconds for load in found['happycache'])[len(ours) // 2]:.2f} s."
        )
    else:
        section.notes.append("happycache is not here: compared with vmtouch and the sweep only.")
    if "vmtouch -t" in found:
        ratio = series["vmtouch -t"].median / mine
        section.verdicts.append(at_least("rate", ratio, TIMES_VMTOUCH, of="vmtouch -t"))
    recall, proven = (min(getattr(load, of) for load in ours) for of in ("recall", "proven"))
    surplus = max(load.surplus for load in ours)
    section.verdicts += [
        Verdict(
            "recall, the worst round",
            f"at least {RECALL:.1%}",
            f"{proven:.3%} loaded, {recall:.3%} still there a moment later",
            proven >= RECALL,
        ),
        Verdict(
            "loaded beyond the request, the worst round",
            f"at most {SURPLUS:.0%}",
            f"{surplus:.3%}",
            surplus <= SURPLUS,
        ),
    ]


def _compare(tree: Tree, masks: Sequence[Mask]) -> tuple[int, int, int]:
    """Count wanted pages that are there, unwanted ones that are, and wanted ones reclaimed since.

    The kernel remembers what it reclaimed, but not what an eviction on request dropped before.
    """
    present = surplus = reclaimed = 0
    for file, mask in zip(tree.files, masks, strict=True):
        now = resident(file)
        there = now.count(1)
        extra = without(now, mask).count(1)
        present += there - extra
        surplus += extra
        missing = mask.count(1) - (there - extra)
        if missing:
            reclaimed += min(missing, evicted_by_kernel(file))
    return present, surplus, reclaimed


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.2f} GB/s"
