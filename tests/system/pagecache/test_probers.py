"""Large scattered dumps: other processes ask the kernel, and none of them is left behind."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from tests.oracles.residency import PAGE, make_resident, pinned
from tests.support.capabilities.pagecache import DUMPS, dump
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until

WINDOW = 512  # pages of one small window; with one of them resident each has to be mapped


def sparse(path: Path, pages: int) -> Path:
    with path.open("wb") as file:
        file.truncate(pages * PAGE)
    return path


def probers(daemon: Daemon) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(daemon.pid).children():
        with suppress(psutil.NoSuchProcess):
            if child.name() == "holdfast-probe":
                found.append(child)
    return found


def gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_what_they_report_is_what_is_resident(daemon: Daemon) -> None:
    expected = {}
    for number in range(4):
        path = sparse(daemon.root / f"{number}", 1 << 17)
        expected[path.name.encode()] = set(range(100 * number, 1 << 17, 4 * WINDOW - 1))
    with ExitStack() as stack:
        for name, pages in expected.items():
            stack.enter_context(pinned(daemon.root / os.fsdecode(name), pages))
        _, record = dump(daemon)
    assert record.pages == expected
    until(lambda: not probers(daemon), what="the end of the processes")


def test_none_outlives_a_daemon_that_is_killed(daemon: Daemon) -> None:
    path = sparse(daemon.root / "f", 1 << 22)
    make_resident(path, range(0, 1 << 22, WINDOW))
    operation = daemon.start(DUMPS, {})

    def asking() -> list[psutil.Process]:
        nonlocal operation
        found = probers(daemon)
        # A dump may have ended between two looks.
        if not found and daemon.http.get(f"/v1/operations/{operation['id']}").json().get(
            "ended_at"
        ):
            operation = daemon.start(DUMPS, {})
        return found

    found = until(asking, interval=0.001, what="a process that asks")
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    until(lambda: all(map(gone, found)), what="their end")
