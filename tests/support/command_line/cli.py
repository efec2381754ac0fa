"""Runs the command line, and reads what it prints."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the sentence of a command that failed: one line, no traceback, nothing on stdout."""
    assert done.returncode == code, (done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("holdfast: ")
    assert done.stdout == ""
    return lines[0].removeprefix("holdfast: ")


def start_cli(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*HOLDFAST, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(HOLDFAST_SOCKET=str(daemon.socket)),
    )


def running(daemon: Daemon) -> Any:
    answer = daemon.http.get("/v1/operations", params={"state": "running"}).json()
    return answer["operations"][0] if answer["operations"] else None
