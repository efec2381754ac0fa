"""A tree of very many small files: time, memory, and whether either grows faster than the tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.context import Context
from tests.bench.daemon import Operation, operate, serving
from tests.bench.dump import LocalDump, local_dump
from tests.bench.figures import Section, Verdict, below, interleave
from tests.bench.machine import peak_memory
from tests.bench.residency import opened
from tests.bench.tree import KIB, MIB, Tree, make, small_sizes

ROUNDS = 3
MEMORY = 300 * MIB
GROWTH = 1.5
"""How much dearer a file of the whole tree may be than one of its quarter; quadratic would be 4."""


def benchmark(context: Context) -> Iterator[Section]:
    """Dump the tree of small files, a quarter of it and all of it."""
    tree = make(
        context.work / "small",
        small_sizes(context.small_files),
        context.say,
        label=f"small {context.small_files}",
    )
    _read(tree)
    rounds = min(ROUNDS, context.rounds)
    own_record, state = context.work / "happycache.gz", context.work / "local-state"
    with serving(tree.root, context.work) as daemon:

        def by_daemon(body: dict[str, Any]) -> Callable[[], Operation]:
            return lambda: operate(daemon, "/v1/pagecache/dumps", body)

        contenders: dict[str, Callable[[], Any]] = {
            "quarter": by_daemon({"path": str(tree.root / "quarter-0")}),
            "daemon": by_daemon({}),
            "local": lambda: local_dump(tree.root, state),
        }
        happycache = context.happycache
        if happycache is not None:

            def theirs() -> float:
                seconds = happycache.dump(tree.root).seconds
                happycache.take_record(tree.root, own_record)
                return seconds

            contenders["happycache"] = theirs
        found = interleave(contenders, rounds, context.say)
        peak = peak_memory(daemon.pid)
    shutil.rmtree(state)
    yield _section(tree, found, peak)


def _section(tree: Tree, found: dict[str, list[Any]], peak: int) -> Section:
    whole: list[Operation] = found["daemon"]
    local: list[LocalDump] = found["local"]
    section = Section(
        f"Dump, {len(tree.files):,} small files",
        f"{tree}, 1 to 4096 bytes each, all in memory. Peak memory is the kernel's own figure "
        "(VmHWM).",
        "seconds",
    )
    own = section.add("holdfast, the operation in the daemon", [o.seconds for o in whole])
    quarter = section.add("the same, a quarter of the tree", [o.seconds for o in found["quarter"]])
    section.add("holdfast --local, the whole process", [d.process.seconds for d in local])
    if "happycache" in found:
        peer = section.add("happycache dump", found["happycache"])
        section.notes.append(f"Against happycache: {peer.median / own.median:.2f} x.")
    files, part = (
        max(done.result["files"] for done in found[name]) for name in ("daemon", "quarter")
    )
    if files < 0.99 * len(tree.files):
        section.notes.append(f"Only {files:,} of the files were still in memory: it is short.")
    each, each_of_quarter = own.median / files, quarter.median / part
    section.verdicts += [
        below("peak memory of the daemon", peak / MIB, MEMORY / MIB, "MiB"),
        below(
            "peak memory of `holdfast --local`",
            max(d.peak_memory for d in local) / MIB,
            MEMORY / MIB,
            "MiB",
        ),
        Verdict(
            "time a file, whole tree to its quarter",
            f"at most {GROWTH:g} x",
            f"{each / each_of_quarter:.2f} x ({each * 1e6:.2f} and {each_of_quarter * 1e6:.2f} µs)",
            each <= GROWTH * each_of_quarter,
        ),
    ]
    section.notes.append(f"Record: {whole[0].result['record_bytes']:,} bytes.")
    return section


def _read(tree: Tree) -> None:
    """Read every file, so that all are in memory whether they were just written or not."""
    for file in tree.files:
        with opened(file.path) as fd:
            os.pread(fd, 4 * KIB, 0)
