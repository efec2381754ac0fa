"""How soon after a boot a datastore is at its warm throughput: cold, loaded in full, or early."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.context import Context
from tests.bench.figures import Section, interleave
from tests.bench.stores import Work
from tests.bench.tree import MIB
from tests.bench.warm import MEMORY, READ_CALLS, READ_RATE, Node

UNTIL = (50, 90)
"""Percent of the expected hits after which the early starts are; the units wait for 90."""
_SHARE = 0.9
_DRAWN = 800_000
_SEEDS = (1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009)
_STEADY = 0.25
"""The part at the end of a run by which the warm throughput is measured."""
_WINDOW, _STEP = 1.0, 0.1
_POINT = 0.5
"""Seconds between the points of a curve."""


@dataclass(frozen=True)
class Device:
    """What a second allows the store and the load to read, and how long a start is followed."""

    name: str
    calls: int
    rate: int
    seconds: int


DEVICES = (
    Device("the disk as it is", 0, 0, 20),
    Device(
        f"{READ_CALLS:,} reads and {READ_RATE // MIB} MiB in a second", READ_CALLS, READ_RATE, 30
    ),
)


@dataclass(frozen=True)
class Started:
    """One start of a store; moments are in seconds since the boot."""

    store: float
    """When its first read began."""
    end: float
    booted: float
    """Since the epoch."""
    work: Work

    def rate(self, start: float, end: float) -> float:
        """Reads in a second between two moments."""
        return self.work.between(self.booted + start, self.booted + end) / (end - start)

    @property
    def steady(self) -> float:
        """The rate at the end."""
        return self.rate(self.end - _STEADY * (self.end - self.store), self.end)

    def reached(self, rate: float) -> float:
        """Return the end of the first second that has a rate; infinity if none has."""
        moments = range(round(self.store / _STEP), round((self.end - _WINDOW) / _STEP))
        ends = (n * _STEP + _WINDOW for n in moments)
        return next((end for end in ends if self.rate(end - _WINDOW, end) >= rate), float("inf"))

    def __str__(self) -> str:
        return f"started at {self.store:.1f} s, {self.steady:,.0f} reads/s at the end"


def starts(context: Context, node: Node, dump: str) -> Iterator[Section]:
    """Measure how long it takes from a boot to the warm throughput, with each device."""
    for device in DEVICES:
        yield _starts(context, node, dump, device)


def _starts(context: Context, node: Node, dump: str, device: Device) -> Section:
    seeds = iter(_SEEDS * context.rounds)
    boots: dict[str, Callable[[], None]] = {
        "cold": lambda: None,
        "full": lambda: _load(node, dump),
    }
    for share in UNTIL:
        boots[f"early, at {share} %"] = partial(_load, node, dump, "--until", f"{share}%")

    def trial(boot: Callable[[], None]) -> Callable[[], Started]:
        return lambda: _start(node, device, boot, next(seeds))

    contenders = {name: trial(boot) for name, boot in boots.items()}
    results = interleave(contenders, context.rounds, context.say)
    warm = statistics.median(started.steady for started in results["full"])
    section = Section(
        f"From a boot to the warm throughput, {node.store.name}, {device.name}",
        f"The same node of {MEMORY // MIB} MiB; what the device allows is for the load as well. "
        "`early`: the store is started after `holdfast pagecache load --until …`. The warm "
        f"throughput, {warm:,.0f} reads in a second, is that of the last quarter of the "
        f"{device.seconds} s after `full`.",
        f"seconds from the boot to {_SHARE:.0%} of it",
    )
    for name, started in results.items():
        begin = statistics.median(each.store for each in started)
        answered = statistics.median(
            each.work.between(each.booted, each.booted + device.seconds) for each in started
        )
        note = (
            f"first read after {begin:.1f} s; {answered:,.0f} reads in the first "
            f"{device.seconds} s since the boot"
        )
        section.add(name, [each.reached(_SHARE * warm) for each in started], note)
    if context.curves is not None:
        _keep(context.curves, node.store.name, device, warm, results)
    return section


def _load(node: Node, dump: str, *how: str) -> None:
    done = node.daemon.cli("pagecache", "load", dump, "--order", "dumps", *how, seconds=600)
    if done.returncode != 0:
        raise RuntimeError(f"the load failed: {done.stderr}")


def _start(node: Node, device: Device, boot: Callable[[], None], seed: int) -> Started:
    node.evict()
    node.store.draw(_DRAWN, seed)
    node.reads.processes.write_text(str(node.daemon.pid))
    node.reads.limit(device.calls, device.rate)
    try:
        booted = time.time()
        boot()
        node.store.start()
        work = node.store.work_for(device.seconds, seed)
        node.store.stop()
    finally:
        node.reads.limit(0, 0)
    _settle(node)
    began = work.began - booted
    return Started(began, began + device.seconds, booted, work)


def _settle(node: Node) -> None:
    """Wait for the end of a load that the store did not wait for."""
    for operation in node.daemon.http.get("/v1/operations").json()["operations"]:
        node.daemon.finish(operation, seconds=600)


def _keep(
    path: Path, store: str, device: Device, warm: float, results: Mapping[str, Sequence[Started]]
) -> None:
    """Write the medians of the rounds for the figure of the documents."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(store, {})[device.name] = {
        "warm": round(warm),
        "step": _POINT,
        "starts": {name: _curve(started, warm, device) for name, started in results.items()},
    }
    path.write_text(json.dumps(known, indent=1) + "\n")


def _curve(started: Sequence[Started], warm: float, device: Device) -> dict[str, Any]:
    reached = statistics.median(each.reached(_SHARE * warm) for each in started)
    shares = (
        statistics.median(each.rate(n * _POINT, (n + 1) * _POINT) for each in started) / warm
        for n in range(round(device.seconds / _POINT))
    )
    return {
        "first_read": round(statistics.median(each.store for each in started), 1),
        "reached": round(reached, 1) if reached < float("inf") else None,
        "shares": " ".join(f"{share:.2f}" for share in shares),
    }
