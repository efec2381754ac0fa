"""Files that few tools get right: leased, very deep, very sparse, from another century, unsized."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities.building import BUILDS, build, digest, verify
from tests.support.capabilities.pagecache import EVICTIONS, dump, load
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.filesystems import new_file_system
from tests.support.promptness import promptly

Starter = Callable[..., Daemon]

# Takes a write lease, and gives it up some time after another process wants the file.
_HOLDER = """
import fcntl, os, signal, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.sigwait({signal.SIGIO})
time.sleep(float(sys.argv[2]))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print("given up", flush=True)
sys.stdin.read()
"""


@contextmanager
def leased(path: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Hold a write lease in another process, which gives it up `seconds` after it is asked to."""
    command = [sys.executable, "-c", _HOLDER, str(path), str(seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


class TestLeases:
    def test_the_holder_is_waited_for(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "leased", 50_000)
        with leased(path, 0.3):
            assert build(daemon).lines[b"leased"]["xxh64"] == digest(path)
        with leased(path, 0.3):
            assert verify(daemon, "latest")["ok"]

    def test_for_the_page_cache_too(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "leased", 50_000)
        with leased(path, 0.2):
            result, _ = dump(daemon)
            assert (result["files_scanned"], result["skipped"]) == (1, {})
        with leased(path, 0.2):
            assert daemon.run(EVICTIONS, {"paths": [str(path)]})["skipped"] == {}

    def test_waiting_can_be_cancelled(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "leased", 50_000)
        with leased(path, 30) as holder:
            operation = daemon.start(BUILDS, {})
            assert holder.poll() is None
            time.sleep(0.3)
            with promptly(1):
                daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
                assert daemon.finish(operation)["state"] == "cancelled"


def deep(root: Path, names: int) -> tuple[int, Path]:
    """Make nested directories with long names; gives a descriptor of the last, and its path."""
    here = os.open(root, os.O_RDONLY)
    path = root
    for _ in range(names):
        name = "d" * 93
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, path = there, path / name
    return here, path


def test_paths_longer_than_one_system_call_takes(daemon: Daemon) -> None:
    directory, path = deep(daemon.root, 60)
    assert len(os.fsencode(path)) > 4096
    try:
        file = os.open("f", os.O_RDWR | os.O_CREAT, dir_fd=directory)
        os.write(file, b"x" * 10_000)
        os.fsync(file)
        found = build(daemon)
        assert (found.result["ok"], found.result["errors"]) == (1, 0)
        assert verify(daemon, found.id)["ok"]
        os.pread(file, 10_000, 0)
        result, _ = dump(daemon)
        assert (result["files_scanned"], result["skipped"]) == (1, {})
        assert load(daemon)["skipped_bytes"] == 0
        os.pwrite(file, b"y", 5000)
        assert verify(daemon, found.id)["mismatched"] == 1
    finally:
        os.close(file)
        os.close(directory)


class TestSparse:
    @pytest.fixture
    def huge(self, disk_dir: Path) -> Iterator[Path]:
        """Three files of 7 EiB each, with one page of data far behind in one of them."""
        with new_file_system("xfs", disk_dir) as place:
            for name in "abc":
                with (place / name).open("wb") as file:
                    file.truncate(7 << 60)
            with (place / "b").open("r+b") as file:
                os.pwrite(file.fileno(), b"data" * 1024, 5 << 60)
                os.fsync(file.fileno())
            yield place

    def test_a_dump_of_exbibytes_takes_neither_time_nor_memory(
        self, start_daemon: Starter, huge: Path
    ) -> None:
        daemon = start_daemon(roots=[huge], state_dir=None)
        with (huge / "b").open("rb") as file:
            os.pread(file.fileno(), 1, 5 << 60)
            with promptly(5):
                result, _ = dump(daemon)
        assert result["files_scanned"] == 3
        assert (result["files"], result["bytes"]) == (1, 4096)

    def test_sizes_beyond_sixty_four_bits_add_up(self, start_daemon: Starter, huge: Path) -> None:
        daemon = start_daemon(roots=[huge], state_dir=None)
        answer = daemon.http.get("/v1/pagecache")
        assert answer.status_code == 200, answer.text
        assert answer.json()["reports"][0]["total"]["bytes"] == 3 * (7 << 60)

    def test_building_can_be_cancelled(self, start_daemon: Starter, huge: Path) -> None:
        daemon = start_daemon(roots=[huge], state_dir=None)
        operation = daemon.start(BUILDS, {})
        time.sleep(0.5)
        with promptly(1):
            daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
            assert daemon.finish(operation)["state"] == "cancelled"


def test_times_beyond_2262_are_kept(start_daemon: Starter, disk_dir: Path) -> None:
    with new_file_system("ext4", disk_dir) as place:
        later = {b"far": 2**33 * 10**9 + 5, b"farther": (2**33 + 7) * 10**9, b"old": -(10**9) - 1}
        for name, time_ns in later.items():
            path = place / os.fsdecode(name)
            path.write_bytes(name)
            os.utime(path, ns=(time_ns, time_ns))
            later[name] = path.stat().st_mtime_ns
        daemon = start_daemon(roots=[place], state_dir=None)
        found = build(daemon)
        assert {name: found.lines[name]["mtime_ns"] for name in later} == later
        assert len(set(later.values())) == 3
        assert verify(daemon, found.id)["ok"]
        second = build(daemon, full=True)
        compared = daemon.run(f"{BUILDS}/comparisons", {"left": found.id, "right": second.id})
        assert compared["ok"], compared


def test_files_with_more_content_than_their_size_are_named(start_daemon: Starter) -> None:
    """In procfs files have no size and yet content: no digest of nothing may take its place."""
    daemon = start_daemon(roots=[Path("/proc/sys/vm")])
    found = build(daemon)
    line = found.lines[b"overcommit_ratio"]
    assert line["status"] == "error"
    assert "more content than the size" in line["detail"]
    assert found.result["errors"] > 10
    for path, line in found.lines.items():
        if line["status"] == "ok":
            assert (daemon.root / os.fsdecode(path)).read_bytes() == b""
