"""Manifests: as fast as the device, without a tail, and never twice for the same bytes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.context import Context
from tests.bench.daemon import Operation, operate, serving
from tests.bench.engine import Call, build, export, verify
from tests.bench.figures import Section, Series, Verdict, at_least, below, interleave
from tests.bench.hashers import B3SUM, DIRECT_READS, OTHERS, XXH64SUM, DirectRead, Peer, sums
from tests.bench.manifest_in_memory import (
    BUILDS,
    Rate,
    listed,
    many,
    memory,
    nothing_read,
    parallel,
    warm,
)
from tests.bench.peers import Timed
from tests.bench.residency import evict, resident
from tests.bench.skewed import skewed_sizes
from tests.bench.tree import MIB, make

SHARE_OF_CEILING = 0.95
TIMES_XXH64SUM = 2.5
TIMES_OTHERS = 1.5
TAIL = 0.9
"""Of the mean rate, in the last tenth of the bytes."""
COLD_MEMORY = 150
"""MiB, whatever the sizes of the files."""
REBUILD_SECONDS = 0.2
_FINALISTS = 2
_REPEATS = 2
"""How often a round has holdfast and the device's ceiling, whose ratio is the finest target."""
_SWEEPS = 2
_READERS = ("io_uring", "pread", "buffered")
_DROP = Path("/proc/sys/vm/drop_caches")


class Cold:
    """The skewed tree, and runs over it that find nothing of it in memory."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.tree = make(
            context.work / "skewed",
            skewed_sizes(context.scale),
            context.say,
            label=f"skewed {context.scale:g}",
        )
        self.largest = max(self.tree.files, key=lambda file: file.size)
        self.record = context.work / "skewed.manifest"

    def prepare(self) -> None:
        """Drop the tree from memory, its inodes too where that is allowed."""
        evict(self.tree)
        if os.access(_DROP, os.W_OK):
            _DROP.write_text("2\n")
        self.context.wait_for_device()

    def read(self, way: DirectRead) -> Rate:
        """Let fio read the largest file."""
        self.prepare()
        return Rate(way.rate(self.largest.path))

    def build(self, reader: str = "auto") -> Call:
        """Build a manifest, with nothing to resume from."""
        self.prepare()
        return build(self.tree.root, self.record, reader=reader)

    def verify(self) -> Call:
        """Verify the tree against the manifest that was built last."""
        self.prepare()
        report = self.context.work / "report"
        verified = verify(self.tree.root, self.record, report)
        report.unlink()
        return verified

    def digest(self, peer: Peer) -> Timed:
        """Let a peer digest the tree."""
        self.prepare()
        return peer.digest(self.tree.root)


def benchmark(context: Context) -> Iterator[Section]:
    """Build, verify and rebuild: from the device, from memory, and with very many files."""
    cold = Cold(context)
    with serving(cold.tree.root, context.work) as daemon:

        def by_daemon() -> Operation:
            cold.prepare()
            return operate(daemon, BUILDS, {"full": True})

        yield _beside_peers(cold, by_daemon)
        yield _readers(cold)
        yield _rebuild(cold, lambda: operate(daemon, BUILDS, {}))
    with memory(context) as directory:
        yield warm(context, directory)
        yield parallel(context, directory)
    yield many(context)


def _beside_peers(cold: Cold, by_daemon: Callable[[], Operation]) -> Section:
    context, tree = cold.context, cold.tree
    ways, swept = _sweep(cold)
    peers = [peer for peer in (*XXH64SUM, B3SUM, *OTHERS) if peer.here]
    _check_digests(cold)

    contenders: dict[str, Callable[[], Any]] = {}
    for repeat in range(_REPEATS):
        contenders[f"holdfast #{repeat}"] = cold.build
        for way in ways:
            contenders[f"{way} #{repeat}"] = partial(cold.read, way)
    contenders["daemon"] = by_daemon
    contenders["verify"] = cold.verify
    for peer in peers:
        contenders[peer.name] = partial(cold.digest, peer)
    found = interleave(contenders, context.rounds, context.say)
    builds: list[list[Call]] = _by_round(found, "holdfast")
    every = [build for round_ in builds for build in round_]

    section = Section(
        "Manifest, a skewed tree from the device",
        f"{tree}; the largest file has {cold.largest.size / tree.bytes:.0%} of the bytes. Nothing "
        "of it is in memory before any run. holdfast and fio twice a round, the others once; "
        "ratios are of runs in the same round, and the median of those.",
        "seconds",
        notes=[swept],
    )
    section.add("holdfast, the call", [build.seconds for build in every], _rates(every))
    own = section.add("holdfast, the whole process", [build.process_seconds for build in every])
    daemon: list[Operation] = found["daemon"]
    section.add("holdfast, the operation in the daemon", [done.seconds for done in daemon])
    section.add(
        "holdfast, request to final state over HTTP", [done.client_seconds for done in daemon]
    )
    section.add(
        "holdfast verify, the call",
        [done.seconds for done in found["verify"]],
        _rates(found["verify"]),
    )
    _judge_ceiling(section, cold, ways, found, builds)
    _judge_peers(section, peers, found, builds, own)

    tails = [_tail(build) for build in every]
    section.verdicts += [
        Verdict(
            "rate in the last tenth of the bytes",
            f"at least {TAIL:g} of the mean",
            f"{statistics.median(tails):.2f} (from {min(tails):.2f} to {max(tails):.2f})",
            statistics.median(tails) >= TAIL,
        ),
        below(
            "peak memory of the process",
            max(build.peak_memory for build in every) / MIB,
            COLD_MEMORY,
            "MiB",
        ),
    ]
    processors = statistics.median(build.processor_seconds for build in every)
    section.notes.append(
        f"Processors: {processors:.2f} s a build. Reader: {every[0].outcome['reader']}, queue "
        f"depth {every[0].outcome['queue_depth']}. Every digest was compared with xxh64sum's."
    )
    return section


def _sweep(cold: Cold) -> tuple[list[DirectRead], str]:
    """Try every way of reading directly; return the best, a plain one too, and a line on all."""
    found: dict[DirectRead, list[float]] = {way: [] for way in DIRECT_READS}
    for _ in range(_SWEEPS):
        for way in DIRECT_READS:
            found[way].append(cold.read(way).rate)
            cold.context.say(f"sweep: {way}: {found[way][-1] / 1e9:.2f} GB/s")
    ranked = sorted(DIRECT_READS, key=lambda way: -max(found[way]))
    line = "; ".join(f"{way}: {max(found[way]) / 1e9:.2f}" for way in ranked)
    plain = next(way for way in ranked if not way.huge)
    finalists = ranked[:_FINALISTS]
    return (
        finalists if plain in finalists else [*finalists, plain],
        f"Sweep of direct reads, GB/s, the better of {_SWEEPS} runs each: {line}.",
    )


def _judge_ceiling(
    section: Section,
    cold: Cold,
    ways: Sequence[DirectRead],
    found: dict[str, list[Any]],
    builds: Sequence[Sequence[Call]],
) -> None:
    reads = {way: _by_round(found, str(way)) for way in ways}
    medians = {
        way: statistics.median(read.rate for round_ in rounds for read in round_)
        for way, rounds in reads.items()
    }
    best = max(ways, key=lambda way: medians[way])
    for way in ways:
        section.add(
            f"{way}, for the size of the tree",
            [cold.tree.bytes / read.rate for round_ in reads[way] for read in round_],
            f"{medians[way] / 1e9:.2f} GB/s; reads the largest file only",
        )

    def against(way: DirectRead) -> list[float]:
        return [
            statistics.median(build.rate for build in ours)
            / statistics.median(read.rate for read in theirs)
            for ours, theirs in zip(builds, reads[way], strict=True)
        ]

    section.verdicts.append(
        at_least(
            "rate of the call",
            statistics.median(against(best)),
            SHARE_OF_CEILING,
            of=f"the best, {best}",
        )
    )
    section.notes += [f"Against {way} in each round: {listed(against(way))}." for way in ways]


def _judge_peers(
    section: Section,
    peers: Sequence[Peer],
    found: dict[str, list[Any]],
    builds: Sequence[Sequence[Call]],
    own: Series,
) -> None:
    series = {
        peer: section.add(peer.name, [run.seconds for run in found[peer.name]]) for peer in peers
    }

    def against(peer: Peer) -> list[float]:
        return [
            theirs.seconds / statistics.median(build.process_seconds for build in ours)
            for ours, theirs in zip(builds, found[peer.name], strict=True)
        ]

    xxh64sums = [peer for peer in XXH64SUM if peer in series]
    if xxh64sums:
        best = min(xxh64sums, key=lambda peer: series[peer].median)
        ratios = against(best)
        section.verdicts.append(
            at_least(
                "speed of the process",
                statistics.median(ratios),
                TIMES_XXH64SUM,
                of=f"the best, {best.name}",
            )
        )
        section.notes.append(f"Against {best.name} in each round: {listed(ratios)}.")
    else:
        section.verdicts.append(at_least("speed", None, TIMES_XXH64SUM, of="xxh64sum"))
    for peer in (B3SUM, *OTHERS):
        ratio = statistics.median(against(peer)) if peer in series else None
        section.verdicts.append(at_least("speed of the process", ratio, TIMES_OTHERS, of=peer.name))
    fastest = min(series.values(), key=lambda each: each.median, default=own)
    ceiling = min(each.median for each in section.series if each.contender.startswith("fio"))
    section.notes.append(
        f"The device's ceiling is {fastest.median / ceiling:.2f} x the fastest peer "
        f"({fastest.contender}): more is not to be had here."
    )


def _readers(cold: Cold) -> Section:
    context, tree = cold.context, cold.tree

    left: dict[str, int] = {}

    def with_reader(reader: str) -> Call:
        built = cold.build(reader)
        pages = sum(resident(file).count(1) for file in tree.files)
        left[reader] = max(left.get(reader, 0), pages)
        return built

    found = interleave(
        {reader: partial(with_reader, reader) for reader in _READERS},
        context.rounds,
        context.say,
    )
    section = Section(
        "Manifest, the ways of reading",
        f"{tree}, built from the device as above with `reader` set; the pages that are in memory "
        "afterwards are counted with mincore.",
        "seconds",
    )
    for reader, calls in found.items():
        section.add(
            f"`reader = {reader}`: {calls[0].outcome['reader']}",
            [built.seconds for built in calls],
            f"{_rates(calls)}; peak {max(c.peak_memory for c in calls) / MIB:.0f} MiB; "
            f"{left[reader]:,} of {tree.pages:,} pages left in memory",
        )
        section.verdicts.append(
            Verdict(
                f"pages left in memory by {reader}",
                "at most 0.1 %",
                f"{left[reader] / tree.pages:.3%}",
                left[reader] <= 0.001 * tree.pages,
            )
        )
    return section


def _rebuild(cold: Cold, by_daemon: Callable[[], Operation]) -> Section:
    context, tree = cold.context, cold.tree
    again = context.work / "again.manifest"

    def by_call() -> Call:
        return build(tree.root, again, previous=cold.record)

    def after_dropping() -> Call:
        cold.prepare()
        return by_call()

    found: dict[str, list[Any]] = interleave(
        {"call": by_call, "daemon": by_daemon, "dropped": after_dropping},
        context.rounds,
        context.say,
    )
    section = Section(
        "Manifest, an unchanged tree again",
        f"{tree}, with the manifest of an earlier build to continue from.",
        "seconds",
    )
    calls: list[Call] = found["call"]
    daemon: list[Operation] = found["daemon"]
    own = section.add("holdfast, the call", [done.seconds for done in calls])
    section.add("holdfast, the whole process", [done.process_seconds for done in calls])
    operation = section.add(
        "holdfast, the operation in the daemon", [done.seconds for done in daemon]
    )
    client = section.add(
        "holdfast, request to final state over HTTP", [done.client_seconds for done in daemon]
    )
    section.add(
        "holdfast, the call, with the inodes dropped before",
        [done.seconds for done in found["dropped"]],
    )
    results = [done.outcome for done in (*calls, *found["dropped"])]
    results += [done.result for done in daemon]
    section.verdicts += [
        nothing_read(results),
        below("the call, median", own.median, REBUILD_SECONDS, "s"),
        below("the operation, median", operation.median, REBUILD_SECONDS, "s"),
        below("over HTTP, median", client.median, REBUILD_SECONDS, "s"),
    ]
    again.unlink()
    return section


def _check_digests(cold: Cold) -> None:
    """Refuse to time a build that is wrong: speed is no merit then."""
    peer = XXH64SUM[-1]
    if not peer.here:
        return
    cold.context.say(f"comparing every digest with those of {peer.name}")
    build(cold.tree.root, cold.record)
    ours = sums(export(cold.record, cold.context.work / "export"))
    theirs = sums(peer.digest(cold.tree.root).output)
    if len(ours) != len(cold.tree.files) or ours != theirs:
        wrong = [path for path in theirs if ours.get(path) != theirs[path]]
        raise RuntimeError(f"{len(wrong)} digests are not those of {peer.name}: {wrong[:10]}")


def _tail(build: Call) -> float:
    """Return the rate in the last tenth of the bytes as a share of the mean."""
    points = [(0.0, 0), *((at, done) for at, done, _ in build.samples)]
    total = build.outcome["bytes"]
    started = max(at for at, done in points if done == 0)
    ended = min((at for at, done in points if done >= total), default=build.seconds)
    nine_tenths = _reached(points, 0.9 * total)
    return (0.1 / max(ended - nine_tenths, 1e-9)) * (ended - started)


def _reached(points: Sequence[tuple[float, int]], wanted: float) -> float:
    """Return when that many bytes were done, interpolated between two samples."""
    for (before, less), (after, more) in pairwise(points):
        if more >= wanted:
            return before + (after - before) * (wanted - less) / (more - less)
    return points[-1][0]


def _by_round(found: dict[str, list[Any]], name: str) -> list[list[Any]]:
    """Return the repeated runs of a contender, those of a round together."""
    repeats = [found[f"{name} #{repeat}"] for repeat in range(_REPEATS)]
    return [list(round_) for round_ in zip(*repeats, strict=True)]


def _rates(calls: Sequence[Call]) -> str:
    return f"{statistics.median(call.rate for call in calls) / 1e9:.2f} GB/s"
