"""The rollout's command line, on fake nodes or real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon.harness import clean_environment, dying_with_parent

CHECKOUT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "holdfast_rollout")
IMAGE = {"descriptor": "https://images.example/web.json", "descriptor_sha256": "a" * 64}


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment with the distributions of the checkout."""
    paths = ":".join(str(CHECKOUT / each) for each in ("client", "fleet/rollout"))
    return clean_environment(PYTHONPATH=paths, **extra)


def write_inventory(
    directory: Path, nodes: Mapping[str, Sequence[Path | None]], **members: Any
) -> Path:
    """Write an inventory of the sockets of each zone; nodes are `ZONE-1`, `ZONE-2` and so on."""
    document = {
        "roll": "roll",
        "image": IMAGE,
        "nodes": [
            {"name": f"{zone}-{number}", "zone": zone, "socket": str(socket)}
            for zone, sockets in nodes.items()
            for number, socket in enumerate(sockets, 1)
        ],
        "times": {"poll": 0.2, "answer": 20, "reboot": 30, "boots": 60},
        **members,
    }
    file = directory / "roll.yaml"
    file.write_text(json.dumps(document))
    return file


def command(*arguments: str | Path, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a pipe."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment(),
    )


def start(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the command line; its output is appended to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            dying_with_parent([*COMMAND, *map(str, arguments)]),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
