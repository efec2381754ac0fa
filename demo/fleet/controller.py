"""The controller: `holdfast-rollout` on DBOS and SQLite, its inventory, and what it rolls into."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.fleet.network import CONTROLLER
from demo.fleet.nodes import PORT, Fleet
from holdfast_rollout.inventory import read_inventory
from tests.support.daemon.harness import dying_with_parent, run_cli
from tests.support.fleet.rollout import COMMAND, environment
from tests.support.servers.fileserver import Behaviour, serving

_IMAGE_BYTES = 8 << 20
_BYTES_PER_SECOND = 2 << 20
"""For each node."""
_LOOK_SECONDS = 0.05
_INVENTORY = """\
roll = "web-2"
nodes = [
{nodes}
]

[image]
descriptor = "{image}/web.json"
descriptor_sha256 = "{sha256}"
identity = []

[access]
token_file = "{work}/token"
ca_file = "{ca}"

[rules]
per_zone = {per_zone}
ahead = {ahead}
canary = 1

[times]
poll = {poll}
answer = {answer}
boots = {boots}

[[gates]]
command = ["sh", "{work}/gate"]
stable = 2
every_seconds = 0.5
within_seconds = 60
"""


_GATE = """\
exec curl -fsS --noproxy '*' --cacert '{ca}' --header '@{work}/bearer' \
    "https://$HOLDFAST_NODE:{port}/readyz"
"""


@dataclass(frozen=True)
class Pace:
    """How many nodes of a zone are disturbed at a time, and how often nodes are called."""

    per_zone: int = 2
    poll: float = 1.0
    """Seconds between two requests to a node while it is waited for."""

    @property
    def members(self) -> dict[str, object]:
        """What of the inventory follows from it."""
        return {
            "per_zone": self.per_zone,
            "ahead": max(8, 2 * self.per_zone),
            "poll": self.poll,
            "answer": max(60.0, 4 * self.poll),
            "boots": max(120.0, 40 * self.poll),
        }


@contextmanager
def published_image(work: Path, *, slowly: bool) -> Iterator[tuple[str, str]]:
    """Serve an image, so slowly that it shows; give where, and the digest of its descriptor."""
    image, descriptor = work / "web.img", work / "web.json"
    image.write_bytes(random.Random(2).randbytes(_IMAGE_BYTES))
    names = ("--name", "web", "--image-version", "2", "--output", descriptor, "--json")
    done = run_cli("image", "describe", image, *names)
    if done.returncode != 0:
        raise RuntimeError(f"the image cannot be described: {done.stderr.strip()}")
    behaviour = Behaviour(
        {f"/{path.name}": path.read_bytes() for path in (image, descriptor)},
        etags={"/web.img": '"2"'},
        bytes_per_second=_BYTES_PER_SECOND if slowly else None,
    )
    with serving(behaviour, CONTROLLER) as url:
        yield url, str(json.loads(done.stdout)["descriptor_sha256"])


class Controller:
    """Runs `holdfast-rollout` in front of the spectator."""

    def __init__(
        self, work: Path, fleet: Fleet, image: str, sha256: str, *, pace: Pace, page: int
    ) -> None:
        self._work = work
        self.peak_bytes = 0
        """The greatest resident size of its process so far."""
        self._page = ("--page", f"127.0.0.1:{page}")
        self._environment = environment(TERM=os.environ.get("TERM", "dumb"))
        nodes = [
            f'  {{ name = "{node.name}", zone = "{node.address.zone}", '
            f'url = "https://{node.name}:{PORT}" }},'
            for node in fleet.nodes
        ]
        values = {"work": work, "ca": fleet.authority, "port": PORT, **pace.members}
        for name, secret in (
            ("token", fleet.token),
            ("bearer", f"Authorization: Bearer {fleet.token}"),
        ):
            file = work / name
            file.touch(mode=0o600)
            file.write_text(f"{secret}\n")
        (work / "gate").write_text(_GATE.format(**values))
        file = work / "roll.toml"
        file.write_text(
            _INVENTORY.format(nodes="\n".join(nodes), image=image, sha256=sha256, **values)
        )
        self.inventory = read_inventory(file)

    def call(self, command: str) -> int:
        """Print a command with the roll's file, run it, and return its exit code."""
        show_command(f"holdfast-rollout {command} roll.toml")
        with self._started(command) as process:
            return process.wait()

    def run(self, kill: Callable[[], bool] = lambda: False) -> int:
        """Run the roll until it ends, stops, or `kill` is true; return the exit code.

        It is negative if the process was killed.
        """
        show_command(f"holdfast-rollout run roll.toml {' '.join(self._page)}")
        with self._started("run", *self._page) as process:
            while process.poll() is None:
                self.peak_bytes = max(self.peak_bytes, peak_bytes(process.pid))
                if kill():
                    process.kill()
                time.sleep(_LOOK_SECONDS)
        return process.returncode

    def states(self) -> dict[str, str]:
        """Return how each node ended, as the rollout's database has it."""
        return {name: str(node["state"]) for name, node in self.nodes().items()}

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return what the rollout's database has of each node."""
        done = subprocess.run(
            [*COMMAND, "status", "roll.toml", "--json"],
            capture_output=True,
            check=False,
            cwd=self._work,
            env=self._environment,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the status cannot be read: {done.stderr.decode().strip()}")
        nodes: dict[str, dict[str, Any]] = json.loads(done.stdout)["nodes"]
        return nodes

    @contextmanager
    def _started(self, command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            dying_with_parent([*COMMAND, command, "roll.toml", *options]),
            stdin=subprocess.DEVNULL,
            cwd=self._work,
            env=self._environment,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            if process.wait() < 0 and sys.stdout.isatty():
                print("\033[?25h", flush=True)  # the cursor, which it hid and could not show again


def peak_bytes(pid: int) -> int:
    """Return the greatest resident size that a process has had; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(peak.split()[1]) * 1024


def show_command(line: str) -> None:
    """Print a command line as a shell shows it."""
    green, plain = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{green}$ {line}{plain}", flush=True)
