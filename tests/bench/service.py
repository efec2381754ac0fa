"""The daemon as a neighbour: how soon it is there, what it costs idle, how it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.bench.context import Context
from tests.bench.daemon import operate, serving
from tests.bench.figures import Section, below
from tests.bench.residency import QUARTER, arrange, evict
from tests.bench.tree import MIB
from tests.support.daemon.harness import Daemon

READY_SECONDS = 1.5
IDLE_SHARE = 0.3
"""Per cent of a core."""
IDLE_MEMORY = 100
"""MiB."""
LATENCY_MS = 50.0
_IDLE_SECONDS = 30.0
_SETTLE_SECONDS = 3.0
_LATENCY_SECONDS = 30.0
_INTERVAL_SECONDS = 0.01
_ENDPOINTS = ("/metrics", "/healthz")
_CHECKOUT = Path(__file__).resolve().parents[2]


def benchmark(context: Context) -> Iterator[Section]:
    """Measure the daemon started, idle, and asked while it works."""
    yield _ready(context)
    yield _idle(context)
    yield _latency(context)


def _ready(context: Context) -> Section:
    section = Section(
        "Daemon, ready",
        "From starting the process to the first 200 on /readyz over the unix socket, tried again "
        "every 10 ms.",
        "seconds",
    )
    took: list[float] = []
    root = context.work / "empty"
    root.mkdir(exist_ok=True)
    with serving(root, context.work) as daemon:
        for _ in range(max(5, context.rounds)):
            assert daemon.stop() == 0
            began = time.monotonic()
            daemon.restart()
            assert daemon.http.get("/readyz").status_code == 200
            took.append(time.monotonic() - began)
    found = section.add("holdfast", took)
    section.verdicts.append(below("ready, median", found.median, READY_SECONDS, "s"))
    return section


def _idle(context: Context) -> Section:
    section = Section(
        "Daemon, idle",
        f"After a dump of {context.tree} and one scrape of /metrics; then nobody asks anything for "
        f"{_IDLE_SECONDS:g} s. All processes of the daemon together.",
        "",
    )
    with serving(context.tree.root, context.work) as daemon:
        operate(daemon, "/v1/pagecache/dumps", {})
        daemon.http.get("/metrics").raise_for_status()
        time.sleep(_SETTLE_SECONDS)
        before, began = processor_seconds(daemon), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        spent = processor_seconds(daemon) - before
        share = 100 * spent / (time.monotonic() - began)
        memory = sum(process.memory_info().rss for process in _family(daemon)) / MIB
    section.verdicts += [
        below("resident memory", memory, IDLE_MEMORY, "MiB"),
        below("processor", share, IDLE_SHARE, "% of a core"),
    ]
    return section


def _latency(context: Context) -> Section:
    tree = context.tree
    section = Section(
        "Daemon, answering while operations saturate the machine",
        f"Loads and dumps of {tree} in turn and at once, for at least {_LATENCY_SECONDS:g} s; over "
        f"TCP with one connection kept open, a request every {_INTERVAL_SECONDS * 1e3:g} ms. "
        "Times count from when the request was due, so a stall is not hidden by waiting it out, "
        "and include what the asking process itself waits for a core.",
        "milliseconds",
    )
    masks = QUARTER.masks(tree)
    with serving(
        tree.root,
        context.work,
        pagecache={"reserve_bytes": "128MiB", "dumps_kept": 10_000},
    ) as daemon:
        evict(tree)
        arrange(tree, masks)
        dump = operate(daemon, "/v1/pagecache/dumps", {}).result["dump"]
        with _asking(daemon) as samples:
            operations = _saturate(context, daemon, dump)
    for endpoint, values in samples.items():
        ranked = sorted(values)
        p50, p99 = (ranked[int(share * (len(ranked) - 1))] for share in (0.5, 0.99))
        section.add(
            endpoint, values, f"p50 {p50:.2f}, p99 {p99:.2f}; {operations} operations meanwhile"
        )
        section.verdicts.append(below(f"{endpoint}, 99th percentile", p99, LATENCY_MS, "ms"))
    return section


def _saturate(context: Context, daemon: Daemon, dump: str) -> int:
    """Load from cold while dumping again and again; return how many operations ran."""
    deadline = time.monotonic() + _LATENCY_SECONDS
    count = 0
    while time.monotonic() < deadline:
        evict(context.tree)
        load = daemon.start("/v1/pagecache/loads", {"dump": dump})
        while daemon.http.get(f"/v1/operations/{load['id']}").json()["state"] in {
            "queued",
            "running",
        }:
            operate(daemon, "/v1/pagecache/dumps", {})
            count += 1
        ended = daemon.finish(load)
        if ended["state"] != "succeeded":
            raise RuntimeError(f"the load {ended['state']}: {ended['error']}")
        count += 1
    return count


@contextmanager
def _asking(daemon: Daemon) -> Iterator[dict[str, list[float]]]:
    """Ask all the while; the milliseconds are in the mapping once the block has ended."""
    samples: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "tests.bench.asker"]
    with subprocess.Popen(
        [*command, str(daemon.port), str(_INTERVAL_SECONDS), *_ENDPOINTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_CHECKOUT,
        text=True,
    ) as process:
        yield samples
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"asking ended with {process.returncode}")
    samples.update(json.loads(output))


def _family(daemon: Daemon) -> list[psutil.Process]:
    process = psutil.Process(daemon.pid)
    return [process, *process.children(recursive=True)]


def processor_seconds(daemon: Daemon) -> float:
    """Return the time that a daemon, its processes and those that have ended spent computing."""
    return sum(
        times.user + times.system + times.children_user + times.children_system
        for times in (process.cpu_times() for process in _family(daemon))
    )
