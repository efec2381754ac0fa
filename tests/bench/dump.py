"""Dumping: how long it takes and how large the record is, by what is in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.context import Context
from tests.bench.daemon import Operation, operate, own_seconds, serving
from tests.bench.figures import Section, Verdict, at_least, interleave
from tests.bench.machine import PeakMemory
from tests.bench.peers import Happycache, KernelCalls, Timed, fincore, run, vmtouch_count
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
)
from tests.bench.tree import PAGE
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment

TIMES_HAPPYCACHE = 3.0
TIMES_VMTOUCH = 1.0
RECORD_RATIO = 1.0
RECORD_AIM = 0.6
_PATTERNS = (FULL, HALF, QUARTER, ALTERNATE, SHORT_RUNS)


@dataclass(frozen=True)
class LocalDump:
    """A dump by `holdfast --local`: the whole process, and the operation in it."""

    process: Timed
    peak_memory: int
    operation: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.process} in all, {own_seconds(self.operation):.3f} s of it the operation"


def local_dump(root: Path, state: Path) -> LocalDump:
    """Dump a tree without a daemon, as a unit at boot would."""
    command = [*HOLDFAST, "pagecache", "dump", "--local", "--json", "--quiet"]
    memory = PeakMemory()
    process = run(
        [*command, "--root", root, "--state-dir", state],
        environment=clean_environment(),
        started_as=memory.follow,
    )
    return LocalDump(process, memory.join(), json.loads(process.output))


def benchmark(context: Context) -> Iterator[Section]:
    """Dump the tree in each of the states that it may be in."""
    tree = context.tree
    with serving(tree.root, context.work) as daemon:
        for pattern in _PATTERNS:
            evict(tree)
            yield _dump(context, daemon, pattern, pattern.masks(tree))


def _dump(context: Context, daemon: Daemon, pattern: Pattern, masks: Sequence[Mask]) -> Section:
    tree, happycache = context.tree, context.happycache
    cores = os.cpu_count() or 1
    calls = KernelCalls.build(context.work, tree)
    wanted = sum(mask.count(1) for mask in masks)
    sizes: dict[str, list[int]] = {"holdfast": [], "happycache": []}
    own_record = context.work / "happycache.gz"
    local_state = context.work / "local-state"

    def checked(measure: Callable[[], Any]) -> Callable[[], Any]:
        def measured() -> Any:
            arrange(tree, masks)
            return measure()

        return measured

    def by_daemon() -> Operation:
        done = operate(daemon, "/v1/pagecache/dumps", {})
        sizes["holdfast"].append(done.result["record_bytes"])
        _check(done.result["pages"], wanted)
        return done

    def by_happycache(program: Happycache) -> Timed:
        done = program.dump(tree.root)
        sizes["happycache"].append(program.take_record(tree.root, own_record))
        return done

    contenders: dict[str, Callable[[], Any]] = {
        "daemon": checked(by_daemon),
        "local": checked(lambda: local_dump(tree.root, local_state)),
        "vmtouch": checked(lambda: vmtouch_count(tree.root)),
        "fincore": checked(lambda: fincore([file.path for file in tree.files])),
    }
    if happycache is not None:
        contenders["happycache"] = checked(lambda: by_happycache(happycache))
    if calls is not None:
        for processes in {1, cores}:
            contenders[f"calls {processes}"] = checked(partial(calls.run, processes))
    found = interleave(contenders, context.rounds, context.say)
    shutil.rmtree(local_state)

    section = Section(
        f"Dump, {pattern.name}",
        f"{tree}; {wanted:,} of {tree.pages:,} pages resident ({wanted * PAGE / 2**30:.2f} GiB), "
        "checked with mincore right before each run. Peers: the time of the whole process.",
        "seconds",
    )
    own = section.add("holdfast, the operation in the daemon", [o.seconds for o in found["daemon"]])
    client = section.add(
        "holdfast, request to final state over HTTP", [o.client_seconds for o in found["daemon"]]
    )
    section.add(
        "holdfast --local, the operation", [own_seconds(d.operation) for d in found["local"]]
    )
    section.add(
        "holdfast --local, the whole process",
        [d.process.seconds for d in found["local"]],
        "with the start of Python",
    )
    vmtouch = section.add("vmtouch, counting only", [t.seconds for t in found["vmtouch"]])
    section.add("fincore, counting only", [t.seconds for t in found["fincore"]])
    for processes in sorted({1, cores}) if calls is not None else ():
        timed = found[f"calls {processes}"]
        bound = section.add(
            f"the kernel's calls alone, processes: {processes}", [t.seconds for t in timed]
        )
    ratio = None
    if happycache is not None:
        peer = section.add("happycache dump", [t.seconds for t in found["happycache"]])
        ratio = peer.median / own.median
        section.notes.append(
            f"Against happycache by the client's clock: {peer.median / client.median:.2f} x."
        )
        if calls is not None:
            section.notes.append(
                f"The kernel's calls alone, by {cores} processes, against happycache: "
                f"{peer.median / bound.median:.2f} x, the most there is where each page is asked "
                "about."
            )
    section.verdicts.append(at_least("speed", ratio, TIMES_HAPPYCACHE, of="happycache"))
    section.verdicts.append(
        at_least("speed", vmtouch.median / own.median, TIMES_VMTOUCH, of="vmtouch")
    )
    _judge_record(section, pattern, sizes)
    return section


def _check(pages: int, wanted: int) -> None:
    """Refuse to time a dump that missed pages: speed is no merit then.

    A host that reclaims pages between the check and the dump is allowed for.
    """
    if abs(pages - wanted) > 0.02 * max(wanted, 1):
        raise RuntimeError(f"the dump has {pages} pages, and {wanted} were resident")


def _judge_record(section: Section, pattern: Pattern, sizes: dict[str, list[int]]) -> None:
    ours = sorted(sizes["holdfast"])[len(sizes["holdfast"]) // 2]
    if not sizes["happycache"]:
        section.notes.append(f"Record: {ours:,} bytes.")
        return
    theirs = sorted(sizes["happycache"])[len(sizes["happycache"]) // 2]
    section.notes.append(f"Record: {ours:,} bytes, happycache's {theirs:,}.")
    if pattern.scattered:
        ratio = ours / theirs
        section.verdicts.append(
            Verdict(
                "size of the record",
                f"at most {RECORD_RATIO:g} x happycache's, aiming at {RECORD_AIM:g}",
                f"{ratio:.2f} x",
                ratio <= RECORD_RATIO,
            )
        )
