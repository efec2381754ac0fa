"""The benchmarks' command line: `python -m tests.bench [NAME…]`."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench import (
    dump,
    image,
    load,
    manifest,
    memory,
    million,
    reimage,
    service,
    start,
    tuning,
    warm,
)
from tests.bench.context import Context
from tests.bench.figures import Section
from tests.bench.hashers import versions
from tests.bench.machine import Device, facts
from tests.bench.peers import Happycache
from tests.support.machine.disk import real_directory

BENCHMARKS: dict[str, Callable[[Context], Iterator[Section]]] = {
    "dump": dump.benchmark,
    "load": load.benchmark,
    "manifest": manifest.benchmark,
    "memory": memory.benchmark,
    "service": service.benchmark,
    "start": start.benchmark,
    "tuning": tuning.benchmark,
    "image": image.benchmark,
    "million": million.benchmark,
    "reimage": reimage.benchmark,
    "lifeboat": reimage.lifeboat,
    "warm": warm.benchmark,
}
NO_HAPPYCACHE = (
    "happycache: not here. Build it from https://github.com/hashbrowncipher/happycache and name it "
    "in $HAPPYCACHE; without it the comparison is with vmtouch, fincore, fio and the sweep only."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks; answer 0 if every target that was measured is met, else 1."""
    options = _parser().parse_args(arguments)
    # A directory of our own, as it is removed in the end.
    work: Path = (options.dir or real_directory()) / "holdfast-bench"
    work.mkdir(parents=True, exist_ok=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = Context(
        work=work,
        rounds=options.rounds,
        scale=options.scale,
        small_files=options.small_files,
        happycache=Happycache.find(),
        device=Device(work),
        curves=options.curves,
    )
    sections: list[Section] = []
    try:
        _print_head(context)
        for name in options.names or BENCHMARKS:
            for section in BENCHMARKS[name](context):
                sections.append(section)
                print(section.markdown(), flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(work)
    if options.json:
        options.json.write_text(
            json.dumps([section.document() for section in sections], indent=2) + "\n"
        )
    return _summary(sections)


def _print_head(context: Context) -> None:
    peers = ["happycache: here" if context.happycache else NO_HAPPYCACHE]
    print(f"## {time.strftime('%Y-%m-%d %H:%M %Z')}\n")
    for line in [*facts(context.work), *peers, versions(), _extent(context)]:
        print(f"- {line}")
    print(flush=True)


def _extent(context: Context) -> str:
    rounds = f"{context.rounds} rounds, interleaved"
    if context.scale >= 1:
        return rounds
    return f"{rounds}; tree scaled by {context.scale:g}: too small for the targets to mean much"


def _summary(sections: Sequence[Section]) -> int:
    missed = [
        f"{section.title}: {verdict.what}: {verdict.figure}, wanted {verdict.target}"
        for section in sections
        for verdict in section.verdicts
        if verdict.met is False
    ]
    unmeasured = sum(verdict.met is None for section in sections for verdict in section.verdicts)
    total = sum(len(section.verdicts) for section in sections)
    print(f"{total - len(missed) - unmeasured} of {total} targets met, {unmeasured} not measured.")
    for line in missed:
        print(f"- missed: {line}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure holdfast beside its peers. Wants an otherwise quiet machine.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; else all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--dir", type=Path, help="where to put the trees: on the device to measure")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the tree; 1 is 8.1 GiB in 5137 files"
    )
    parser.add_argument(
        "--small-files", type=int, default=1_000_000, help="how many, for `million`"
    )
    parser.add_argument("--keep", action="store_true", help="keep the trees for the next run")
    parser.add_argument("--json", type=Path, help="also write everything to this file, as JSON")
    parser.add_argument(
        "--curves", type=Path, help="where `warm` writes its curves: docs/img/warm_start.json"
    )
    return parser
