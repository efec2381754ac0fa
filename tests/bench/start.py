"""How fast the programs start: whole processes, with the modules compiled and without."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil

import holdfast
from tests.bench.context import Context
from tests.bench.daemon import serving
from tests.bench.figures import Section, below, interleave
from tests.support.daemon.harness import HOLDFAST, Daemon

READY_SECONDS = 0.5
COMPLETE_SECONDS = 0.15
PLAIN_SECONDS = 0.25
TABLE_SECONDS = 0.35
_LEAST_ROUNDS = 9
_COMMANDS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "--version": (("--version",), PLAIN_SECONDS),
    "--help": (("--help",), PLAIN_SECONDS),
    "op list": (("op", "list"), PLAIN_SECONDS),
    "pagecache show": (("pagecache", "show"), PLAIN_SECONDS),
    "manifest list": (("manifest", "list"), TABLE_SECONDS),
    "node": (("node",), TABLE_SECONDS),
    "of holdfast-warm": (
        ("pagecache", "load", "--missing-ok", "--until", "90%", "--deadline", "10m"),
        TABLE_SECONDS,
    ),
}
_COMPLETIONS = {"TAB, a command": "holdfast pagec", "TAB, an id": "holdfast pagecache load "}


def benchmark(context: Context) -> Iterator[Section]:
    """Measure the starts as an installed package has them, and as a fresh checkout does."""
    compiled = context.work / "compiled"
    root = context.work / "starts"
    root.mkdir(exist_ok=True)
    environment = {"PYTHONPYCACHEPREFIX": str(compiled), "PYTHONDONTWRITEBYTECODE": ""}
    with serving(root, context.work, environment=environment) as daemon:
        yield _starts(context, daemon, "modules compiled, as the package has them")
        # Those of holdfast only: nobody compiles what is in site-packages at each start.
        ours = Path(holdfast.__file__).parent
        shutil.rmtree(compiled / ours.relative_to(ours.anchor))
        daemon.environment["PYTHONDONTWRITEBYTECODE"] = "1"
        yield _starts(context, daemon, "holdfast's modules compiled at each start", judge=False)


def _starts(context: Context, daemon: Daemon, what: str, *, judge: bool = True) -> Section:
    section = Section(
        f"Starts, {what}",
        "Whole processes, from the start to the end; of the daemon to the first 200 on /readyz. "
        "The processor's time, a median as well, does not depend on how busy the machine is.",
        "seconds",
    )
    limits = {"the daemon, ready": READY_SECONDS}
    contenders: dict[str, Callable[[], tuple[float, float]]] = {
        "the daemon, ready": partial(_ready, daemon)
    }
    for name, (arguments, limit) in _COMMANDS.items():
        limits[name] = limit
        contenders[name] = partial(_run, daemon, *arguments)
    for name, words in _COMPLETIONS.items():
        limits[name] = COMPLETE_SECONDS
        contenders[name] = partial(_complete, daemon, words)
    for contender in contenders.values():
        contender()  # compiles what may be, and reads it from the disk
    rounds = max(_LEAST_ROUNDS, context.rounds)
    for name, took in interleave(contenders, rounds, context.say).items():
        spent = statistics.median(processor for _, processor in took)
        series = section.add(name, [wall for wall, _ in took], f"processor {spent:.2f} s")
        if judge:
            section.verdicts.append(below(f"{name}, median", series.median, limits[name], "s"))
    return section


def _ready(daemon: Daemon) -> tuple[float, float]:
    """Return the seconds to the first answer, by the clock and of the processor."""
    assert daemon.stop() == 0
    began = time.monotonic()
    daemon.restart()
    assert daemon.http.get("/readyz").status_code == 200
    took = time.monotonic() - began
    times = psutil.Process(daemon.pid).cpu_times()
    return took, times.user + times.system


def _run(daemon: Daemon, *arguments: str, **variables: str) -> tuple[float, float]:
    """Return the seconds of a whole process, by the clock and of the processor."""
    environment = {**daemon.environment, "HOLDFAST_SOCKET": str(daemon.socket), **variables}
    before, began = _children(), time.monotonic()
    subprocess.run(
        [*HOLDFAST, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _complete(daemon: Daemon, words: str) -> tuple[float, float]:
    return _run(
        daemon,
        _HOLDFAST_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
