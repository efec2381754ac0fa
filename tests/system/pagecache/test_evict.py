"""Evictions: what is dropped, what stays, and who keeps it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.residency import PAGE, pinned, resident_pages
from tests.support.capabilities.pagecache import EVICTIONS
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import read_all, write_file


def evict(daemon: Daemon, *paths: Path, **body: Any) -> dict[str, Any]:
    result = daemon.run(EVICTIONS, {"paths": [str(path) for path in paths]} | body)
    assert result["resident_before"] == result["evicted"] + result["retained"]
    return result


def test_files_and_directories(daemon: Daemon) -> None:
    names = ("a/one", "a/two", "b/three", "c")
    files = {name: write_file(daemon.root / name, 8 * PAGE) for name in names}
    with pinned(files["c"]), pinned(files["a/two"]) as kept:
        read_all(files["a/one"])
        assert resident_pages(files["a/one"])
        evict(daemon, daemon.root / "a" / "one", daemon.root / "b")
        assert not resident_pages(files["a/one"])
        assert not resident_pages(files["b/three"])
        assert resident_pages(files["a/two"]) == kept


def test_a_whole_root(daemon: Daemon) -> None:
    files = [write_file(daemon.root / f"{number}", 8 * PAGE) for number in range(5)]
    for path in files:
        read_all(path)
    result = evict(daemon, daemon.root)
    assert result["files"] == 5
    assert not any(resident_pages(path) for path in files)


def test_dirty_pages_stay_unless_written_first(daemon: Daemon) -> None:
    path = daemon.root / "f"
    with path.open("wb") as file:
        # A writer that continues to write: without `sync` the kernel drops only what is clean.
        file.write(os.urandom(64 * PAGE))
        file.flush()
        with mmap.mmap(os.open(path, os.O_RDWR), 64 * PAGE) as mapped:
            mapped[0] = 1
            result = evict(daemon, path)
            assert result["retained"] > 0
            (retained,) = result["retained_files"]
            assert retained["path"] == str(path)
            assert any(reason.startswith("mapped by ") for reason in retained["reasons"])
    assert evict(daemon, path, sync=True)["retained"] == 0
    assert not resident_pages(path)


def test_locked_pages_and_who_locks_them(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 8 * PAGE)
    with pinned(path, {1, 2}):
        result = evict(daemon, path)
    (retained,) = result["retained_files"]
    assert retained["retained"] == result["retained"] >= 2 * PAGE
    name = Path("/proc/self/comm").read_text().strip()
    assert retained["reasons"] == [f"locked by {name}[{os.getpid()}]"]


def test_another_process_that_maps_it(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 8 * PAGE)
    program = (
        "import mmap, sys\n"
        "f = open(sys.argv[1], 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
        "bytes(m); print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        result = evict(daemon, path)
        process.communicate()
    (retained,) = result["retained_files"]
    (reason,) = retained["reasons"]
    assert reason.startswith("mapped by ")
    assert reason.endswith(f"[{process.pid}]")


@pytest.mark.parametrize("inside", ["", "dumps", "operations.sqlite3"])
def test_its_own_state_is_refused(daemon: Daemon, inside: str) -> None:
    daemon.stop()
    state = daemon.root / ".holdfast"
    daemon.rewrite_config(lambda text: text.replace(str(daemon.state_dir), str(state)))
    daemon.restart()
    response = daemon.http.post(EVICTIONS, json={"paths": [str(state / inside)]})
    assert response.status_code == 422
    assert response.json()["type"] == "/problems/outside-roots"
