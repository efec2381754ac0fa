"""Manifests of what is in memory, with one processor and with all, and of very many files."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from tests.bench.context import Context
from tests.bench.daemon import operate, serving
from tests.bench.engine import Call, build, verify
from tests.bench.figures import Section, Verdict, below, interleave
from tests.bench.machine import peak_memory
from tests.bench.tree import GIB, MIB, Tree, make, small_sizes
from tests.support.machine.disk import file_system

MANY_SECONDS = 10.0
MANY_MEMORY = 300
"""MiB."""
BUILDS = "/v1/manifests"
_MANY_ROUNDS = 3
_BLOCK = MIB
_HASH_SECONDS = 0.5
_IN_MEMORY = 4 * GIB


@dataclass(frozen=True)
class Rate:
    """Bytes in a second, of whatever was measured."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate / 1e9:.2f} GB/s"


def warm(context: Context, directory: Path) -> Section:
    several = _files_in_memory(context, directory / "several", 8)
    holes = directory / "holes"
    holes.mkdir()
    with (holes / "hole").open("wb") as file:
        file.truncate(2 * several.bytes)
    record = directory / "manifest"
    first = [min(os.sched_getaffinity(0))]
    contenders: dict[str, Callable[[], Any]] = {
        "one": lambda: build(several.root, record, processors=first),
        "all": lambda: build(several.root, record),
        "holes": lambda: build(holes, record, processors=first),
        "xxhash": _in_cache,
    }
    found: dict[str, list[Any]] = interleave(contenders, context.rounds, context.say)
    section = Section(
        "Manifest, from memory",
        f"{several} on tmpfs, alike in size, beside the digest's own speed.",
        "GB/s",
    )
    section.add(
        "holdfast, one processor",
        [done.rate / 1e9 for done in found["one"]],
        f"{found['one'][0].outcome['reader']}; reading is copying here, on the same processor",
    )
    section.add(
        f"holdfast, {len(os.sched_getaffinity(0))} processors",
        [done.rate / 1e9 for done in found["all"]],
        f"{_per_core(found['all']) / 1e9:.2f} GB/s for each processor-second",
    )
    section.add(
        "holdfast, a hole, one processor",
        [done.rate / 1e9 for done in found["holes"]],
        "hashed as zeros from its cache, nothing is read",
    )
    section.add(
        "the xxhash package, in cache",
        [measured.rate / 1e9 for measured in found["xxhash"]],
        "xxh64 of the same MiB again and again",
    )
    few, cache = (section.series[index].median for index in (0, -1))
    section.notes.append(
        f"One processor reaches {few / cache:.0%} of the digest's in-cache speed. Every byte of a "
        "file of more than one chunk is digested twice: for the file, and for its chunk."
    )
    shutil.rmtree(holes)
    shutil.rmtree(several.root)
    return section


def parallel(context: Context, directory: Path) -> Section:
    single = _files_in_memory(context, directory / "single", 1)
    record, report = directory / "manifest", directory / "report"
    build(single.root, record)
    processors = sorted(os.sched_getaffinity(0))
    contenders = {
        str(count): partial(verify, single.root, record, report, processors=processors[:count])
        for count in (1, len(processors))
    }
    found = interleave(contenders, context.rounds, context.say)
    section = Section(
        "Manifest, one file verified again by several processors",
        f"{single} on tmpfs. The chunk table lets every processor start somewhere else, though "
        "the digest is one chain.",
        "GB/s",
    )
    for count, runs in found.items():
        section.add(f"{count} of the processors", [done.rate / 1e9 for done in runs])
    ratios = [
        few.seconds / some.seconds
        for few, some in zip(found["1"], found[str(len(processors))], strict=True)
    ]
    section.notes.append(
        f"{statistics.median(ratios):.2f} x as fast with {len(processors)} processors as with one "
        f"(in each round: {listed(ratios)})."
    )
    shutil.rmtree(single.root)
    return section


def many(context: Context) -> Section:
    tree = make(
        context.work / "small",
        small_sizes(context.small_files),
        context.say,
        label=f"small {context.small_files}",
    )
    again = context.work / "again.manifest"
    rounds = min(_MANY_ROUNDS, context.rounds)
    with serving(tree.root, context.work) as daemon:
        first = operate(daemon, BUILDS, {})
        context.say(f"the first build: {first}")
        after_first = peak_memory(daemon.pid)
        previous = daemon.state_dir / "manifests" / f"{first.result['manifest']}.manifest.zst"
        # The daemon forgets the oldest ones, of which this is one.
        kept = context.work / "first.manifest"
        shutil.copy(previous, kept)
        found: dict[str, list[Any]] = interleave(
            {
                "call": lambda: build(tree.root, again, previous=kept),
                "daemon": lambda: operate(daemon, BUILDS, {}),
            },
            rounds,
            context.say,
        )
        peak = peak_memory(daemon.pid)
    section = Section(
        f"Manifest, {len(tree.files):,} small files",
        f"{tree}, 1 to 4096 bytes each; built once, then again and again, unchanged.",
        "seconds",
    )
    calls: list[Call] = found["call"]
    section.add("the first build, the operation", [first.seconds], "reads every file")
    own = section.add("again, the call", [done.seconds for done in calls])
    operation = section.add(
        "again, the operation in the daemon", [done.seconds for done in found["daemon"]]
    )
    results = [done.outcome for done in calls] + [done.result for done in found["daemon"]]
    section.verdicts += [
        nothing_read(results),
        below("again, the call, median", own.median, MANY_SECONDS, "s"),
        below("again, the operation, median", operation.median, MANY_SECONDS, "s"),
        below(
            "peak memory of the process",
            max(done.peak_memory for done in calls) / MIB,
            MANY_MEMORY,
            "MiB",
        ),
        below("peak memory of the daemon", peak / MIB, MANY_MEMORY, "MiB"),
    ]
    section.notes.append(
        f"Record: {first.result['record_bytes']:,} bytes. The daemon's peak after the first build: "
        f"{after_first / MIB:.0f} MiB."
    )
    again.unlink()
    kept.unlink()
    return section


def nothing_read(results: Sequence[Any]) -> Verdict:
    read = max(result["read_bytes"] for result in results)
    return Verdict("bytes of data read", "0", f"{read:,}", read == 0)


def _in_cache() -> Rate:
    """Measure how fast the xxhash package digests one block in cache."""
    block = os.urandom(_BLOCK)
    count = 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < _HASH_SECONDS:
        xxhash.xxh64(block).intdigest()
        count += 1
    return Rate(count * _BLOCK / elapsed)


@contextmanager
def memory(context: Context) -> Iterator[Path]:
    """Give a directory on tmpfs, removed afterwards."""
    base = Path("/dev/shm")
    if file_system(base) != "tmpfs":
        raise RuntimeError(f"{base} is not on tmpfs: there is nowhere to measure from memory")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=base))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _files_in_memory(context: Context, root: Path, count: int) -> Tree:
    size = int(_IN_MEMORY * min(1.0, context.scale)) // count
    return make(
        root,
        [(f"{number}.db", size) for number in range(count)],
        context.say,
        label=f"{count} of {size}",
    )


def _per_core(calls: Sequence[Call]) -> float:
    return statistics.median(
        float(call.outcome["bytes"]) / call.processor_seconds for call in calls
    )


def listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)
