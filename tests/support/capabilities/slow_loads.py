"""Loads that take seconds, so that something can happen meanwhile."""

from __future__ import annotations

from typing import Any

from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import drop, read_all, write_file
from tests.support.waiting import until

MIB = 1 << 20
SIZE = 12 * MIB
SLOW = 4 * MIB  # bytes per second: a load of SIZE takes three seconds


def prepare_load(daemon: Daemon) -> None:
    """Make a dump of files that are resident, then drop them, so that a load has work to do."""
    paths = [write_file(daemon.root / f"file-{n}", SIZE // 3, seed=n) for n in range(3)]
    for path in paths:
        read_all(path)
    result = daemon.run("/v1/pagecache/dumps", {})
    assert result["bytes"] == SIZE
    for path in paths:
        drop(path)


def start_slow_load(daemon: Daemon, *, rate: int = SLOW, **headers: str) -> dict[str, Any]:
    """Start a load that takes seconds, and wait until it has moved some bytes."""
    operation = daemon.start("/v1/pagecache/loads", {"bytes_per_second": rate}, **headers)
    until(
        lambda: operation_of(daemon, operation["id"])["progress"]["bytes_done"] > 0,
        what="progress of the load",
    )
    return operation


def operation_of(daemon: Daemon, operation_id: str) -> dict[str, Any]:
    response = daemon.http.get(f"/v1/operations/{operation_id}")
    assert response.status_code == 200, response.text
    operation: dict[str, Any] = response.json()
    return operation
