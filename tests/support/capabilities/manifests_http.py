"""Helpers of the tests of manifests over HTTP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.operations.ids import new_id
from tests.support.capabilities.building import BUILDS
from tests.support.capabilities.manifests import CHUNK
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

COMPARISONS = f"{BUILDS}/comparisons"


@pytest.fixture
def tree(daemon: Daemon) -> Path:
    """Give a directory with a little of everything."""
    top = daemon.root / "db"
    for number in range(3):
        write_file(top / "deep" / f"f{number}.db", 100_000 + number, seed=number)
    write_file(top / "large", CHUNK * 2 + 12_345, seed=7)
    (top / "empty").touch()
    (top / "link").symlink_to("deep/f0.db")
    os.link(top / "deep" / "f0.db", top / "z-same")
    os.mkfifo(top / "fifo")
    # A file that changed less than 20 ms before a build is read again by the next one.
    newest = max(path.lstat().st_ctime_ns for path in top.rglob("*"))
    until(
        lambda: time.time_ns() > newest + 30_000_000, what="the clock to leave these files behind"
    )
    return top


def compare(daemon: Daemon, left: str, right: str, **body: Any) -> dict[str, Any]:
    return daemon.run(COMPARISONS, {"left": left, "right": right, **body})


def put(daemon: Daemon, content: bytes, manifest: str | None = None) -> httpx.Response:
    path = f"{BUILDS}/{manifest or new_id()}/content"
    return daemon.http.put(path, content=content)


def content(daemon: Daemon, manifest: str, **params: str) -> bytes:
    answer = daemon.http.get(f"{BUILDS}/{manifest}/content", params=params)
    assert answer.status_code == 200, answer.text
    return answer.content
