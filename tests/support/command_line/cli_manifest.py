"""Helpers of the tests of `holdfast manifest`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.manifests import CHUNK, manifest_record
from tests.support.capabilities.manifests import head as header
from tests.support.command_line.cli import as_json
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment
from tests.support.machine.disk import write_file

MIB = 1 << 20
DIFFERENT = 3
RED = "\x1b[31m"
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def tree(daemon: Daemon) -> Daemon:
    """Give a daemon with a file of three chunks, some small ones, and a link."""
    fill(daemon.root)
    return daemon


def fill(root: Path) -> None:
    for number in range(3):
        write_file(root / "small" / f"{number}.db", 10_000 + number, seed=number)
    write_file(root / "large.db", 2 * CHUNK + 12_345, seed=7)
    (root / "link").symlink_to("large.db")


def build(daemon: Daemon, *arguments: str | Path) -> str:
    """Build a manifest through the command line and answer its id."""
    built = as_json(daemon.cli("manifest", "build", *arguments, "--json"))
    assert built["state"] == "succeeded"
    manifest: str = built["result"]["manifest"]
    return manifest


def different(done: Done) -> list[str]:
    """Return what a command printed that found differences."""
    assert done.returncode == DIFFERENT, (done.stdout, done.stderr)
    assert "holdfast:" not in done.stderr
    return done.stdout.splitlines()


def bring(daemon: Daemon, path: Path, lines: list[dict[str, Any]], **other: Any) -> str:
    """Import a manifest with these lines and answer its id."""
    path.write_bytes(manifest_record(header(**other), lines))
    stored: str = as_json(daemon.cli("manifest", "import", path, "--json"))["id"]
    return stored


def compared(daemon: Daemon) -> str:
    """Return the id of the newest comparison."""
    listed = as_json(daemon.cli("op", "list", "--kind", "manifest.compare", "--json"))
    operation: str = listed["operations"][0]["id"]
    return operation


def peak(daemon: Daemon, *arguments: str, lines: int) -> int:
    """Run a command that prints `lines` lines; return the most memory it held, in bytes."""
    # By the process itself: what wait4 reports includes the memory of the process that forked.
    program = (
        "import sys\n"
        "from holdfast.cli import execute\n"
        "code = execute(sys.argv[1:])\n"
        "print(open('/proc/self/status').read(), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    with subprocess.Popen(
        [HOLDFAST[0], "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert sum(1 for _ in process.stdout) == lines
        status = process.stderr.read().decode()
    assert process.returncode == 0, status
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
