"""`make demo-fleet`: 12 daemons in 3 zones become another image, with faults on the way.

Each daemon has its own network and mount namespace, data and state, and is called over TLS. The
rollout is `holdfast-rollout` on DBOS and SQLite. Only the boots are shortened: a kill, what the
imager would have left, and a restart. Ends with 0 only if all nodes are done, and leaves neither
process, interface nor file behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from demo.fleet.controller import Controller, Pace, published_image
from demo.fleet.nodes import addresses, running_fleet
from demo.fleet.relay import listening, relayed
from demo.fleet.story import FellShortError, Story, say, title
from demo.requirements import NAMESPACES, lacking_for_fleet
from tests.support.machine.disk import real_directory
from tests.support.machine.namespaces import NoNamespacesError

DOWN_SECONDS, QUICK_SECONDS = 3.0, 0.3
"""How long a node is down, besides the start of its daemon."""

_FAULTS = (
    FellShortError,
    NoNamespacesError,
    RuntimeError,
    AssertionError,
    OSError,
    subprocess.SubprocessError,
    httpx.HTTPError,
)


@dataclass(frozen=True)
class Fleets:
    """What fleet is shown, and how."""

    zones: int
    nodes: int
    """Of each zone."""
    pace: Pace
    quick: bool
    """Without faults, as fast as it can."""
    measured: bool
    """Without faults; ends with what it cost."""


def run(work: Path, shown: Fleets, outside: socket.socket) -> bool:
    """Show the story, or a roll without faults; return whether every node is done."""
    began = datetime.now(UTC)
    places = addresses(shown.zones, shown.nodes)
    page = outside.getsockname()[1]
    title(f"{len(places)} nodes in {shown.zones} zones: a namespace, a daemon and its data each")
    say(
        f"{places[0].name} is https://{places[0].name}:9918 ({places[0].ip}), and so on.",
        f"The rollout's page, as soon as it runs: http://127.0.0.1:{page}/",
    )
    plain = shown.quick or shown.measured
    with ExitStack() as stack:
        stack.enter_context(relayed(outside))
        image, sha256 = stack.enter_context(published_image(work, slowly=not plain))
        down = QUICK_SECONDS if shown.quick else DOWN_SECONDS
        fleet = stack.enter_context(running_fleet(work, places, down))
        stack.callback(_ending)
        controller = Controller(work, fleet, image, sha256, pace=shown.pace, page=page)
        story = Story(fleet, controller, began)
        out = Console(highlight=False)
        if shown.measured:
            good = story.measure(out, page)
        else:
            good = story.run_without_faults(out) if shown.quick else story.run(out)
    seconds = (datetime.now(UTC) - began).total_seconds()
    verdict = f"all {len(places)} nodes run the image" if good else "IT FELL SHORT"
    print(f"\n{verdict}; {seconds:.0f} s, and nothing is left running")
    return good


def _ending() -> None:
    """Say what takes a moment now, and do it whole: without it, daemons would be left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    say("\nending the daemons")


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="make demo-fleet", description=__doc__)
    parser.add_argument("--zones", type=int, choices=range(2, 7), default=3)
    parser.add_argument("--nodes", type=int, choices=range(1, 33), default=4, help="of a zone")
    parser.add_argument("--per-zone", type=int, default=2, help="disturbed at a time")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between two requests")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="without faults, as fast as it can")
    kind.add_argument("--measure", action="store_true", help="without faults; what it costs")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    missing = lacking_for_fleet()
    if missing is not None:
        print(f"make demo-fleet: {missing}", file=sys.stderr)
        return 1
    if options.inside is None:
        # A namespace of the demo's own, with which all interfaces and mounts end.
        outside = listening()
        outside.set_inheritable(True)
        inside = (*sys.argv[1:], "--inside", str(outside.fileno()))
        command = [*NAMESPACES, sys.executable, "-m", "demo.fleet", *inside]
        os.execvp(command[0], command)
    outside = socket.socket(fileno=options.inside)
    outside.set_inheritable(False)
    shown = Fleets(
        options.zones,
        options.nodes,
        Pace(options.per_zone, options.poll),
        quick=options.quick,
        measured=options.measure,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    work = Path(tempfile.mkdtemp(prefix="holdfast-fleet-", dir=real_directory()))
    try:
        good = run(work, shown, outside)
    except KeyboardInterrupt:
        print("\ninterrupted; the daemons are ended, and nothing is left", file=sys.stderr)
        return 130
    except _FAULTS as problem:
        print(f"the demo fell short: {problem}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
