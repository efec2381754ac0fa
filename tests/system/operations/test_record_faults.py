"""The record of operations: damaged, too new, shared, without its volume, or on a full disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.operations.ids import encode
from tests.support.capabilities.slow_loads import SIZE, operation_of, prepare_load
from tests.support.daemon.harness import Daemon

LATER_MS = 2_114_380_800_000  # 2037
Starter = Callable[..., Daemon]


def test_a_damaged_record_is_moved_aside_and_the_daemon_starts(daemon: Daemon) -> None:
    daemon.run("/v1/pagecache/dumps", {})
    assert daemon.stop() == 0
    file = daemon.state_dir / "operations.sqlite3"
    file.write_bytes(b"\0damaged" * 1000)
    daemon.restart()
    assert daemon.http.get("/v1/operations").json()["operations"] == []
    (aside,) = daemon.state_dir.glob("operations.sqlite3.damaged-*")
    assert aside.read_bytes() == b"\0damaged" * 1000
    assert str(aside) in daemon.log
    # The dump itself is no part of that record.
    assert len(daemon.http.get("/v1/pagecache/dumps").json()["dumps"]) == 1


def test_a_record_of_a_newer_version_is_refused_and_left_alone(daemon: Daemon) -> None:
    daemon.run("/v1/pagecache/dumps", {})
    daemon.stop()
    file = daemon.state_dir / "operations.sqlite3"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert refused(daemon) == 1
    assert "was written by a newer holdfast (schema 99" in daemon.log
    assert not list(daemon.state_dir.glob("*damaged*"))


def refused(daemon: Daemon) -> int:
    """Start a daemon again that ought to refuse, and return its exit code."""
    with (daemon.directory / "log").open("ab") as log:
        return subprocess.run(
            daemon.process.args,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=daemon.environment,
            timeout=20,
            check=False,
        ).returncode


def test_two_daemons_do_not_share_a_state_directory(daemon: Daemon) -> None:
    assert refused(daemon) == 1
    assert f"Another holdfast (process {daemon.pid}) uses the state directory" in daemon.log
    assert daemon.http.get("/healthz").status_code == 200


def test_without_its_volume_the_daemon_starts_degraded_and_says_so(
    start_daemon: Starter, disk_dir: Path
) -> None:
    root = disk_dir / "volume"
    daemon = start_daemon(
        roots=[root], state_dir=None, fallback_state_dir=str(disk_dir / "fallback"), wait=False
    )
    daemon.wait_ready()
    daemon.stop()
    root.rename(disk_dir / "away")  # as when the volume is not mounted
    daemon.restart()
    assert daemon.http.get("/healthz").status_code == 200
    response = daemon.http.get("/readyz")
    assert response.status_code == 503
    assert f"Root {root} does not exist" in response.json()["detail"]
    assert f"Root {root} does not exist" in daemon.log
    assert (disk_dir / "fallback" / "operations.sqlite3").exists()
    assert not root.exists()
    root.mkdir()


def test_what_was_recorded_while_the_clock_was_ahead_does_not_stay_the_latest(
    start_daemon: Starter,
) -> None:
    daemon = start_daemon(pagecache={"dumps_kept": 2})
    first = daemon.run("/v1/pagecache/dumps", {})["dump"]
    daemon.stop()
    (file,) = (daemon.state_dir / "dumps").glob("*.zst")
    ahead = encode(LATER_MS << 80)
    file.rename(file.with_name(file.name.replace(first, ahead)))
    daemon.restart()
    made = [daemon.run("/v1/pagecache/dumps", {})["dump"] for _ in range(2)]
    listed = daemon.http.get("/v1/pagecache/dumps").json()["dumps"]
    assert [(operation["id"], operation["latest"]) for operation in listed] == [
        (made[1], True),
        (made[0], False),
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of two MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_named_and_what_was_recorded_stays(
    start_daemon: Starter, small_disk: Path
) -> None:
    daemon = start_daemon(state_dir=str(small_disk / "state"))
    first = daemon.finish(daemon.start("/v1/pagecache/dumps", {}))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    # The record may have some space left in its own files; then operations fail rather than starts.
    outcomes = []
    for _ in range(30):
        response = daemon.http.post("/v1/pagecache/dumps", json={})
        if response.status_code == 202:
            ended = daemon.finish(response.json())
            outcomes.append(ended["error"]["type"])
        else:
            assert response.status_code == 507, response.text
            outcomes.append(response.json()["type"])
    assert set(outcomes) == {"/problems/no-space"}
    assert daemon.http.get("/healthz").status_code == 200
    assert operation_of(daemon, first["id"]) == first
    filler.unlink()
    assert daemon.finish(daemon.start("/v1/pagecache/dumps", {}))["state"] == "succeeded"
    daemon.kill()
    daemon.restart()
    assert operation_of(daemon, first["id"]) == first


def test_started_on_a_full_disk_it_reads_what_is_there_and_says_what_it_lacks(
    start_daemon: Starter, small_disk: Path, disk_dir: Path
) -> None:
    fallback = disk_dir / "fallback"
    daemon = start_daemon(state_dir=str(small_disk / "state"), fallback_state_dir=str(fallback))
    prepare_load(daemon)
    daemon.stop()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    daemon.restart()
    assert daemon.run("/v1/pagecache/loads", {"dump": "latest"})["loaded"] == SIZE
    response = daemon.http.get("/readyz")
    assert response.status_code == 503
    assert f"The volume of {small_disk}/state is full" in response.json()["detail"]
    assert "free space and restart holdfast" in daemon.log
    assert (fallback / "operations.sqlite3").exists()
    failed = daemon.finish(daemon.start("/v1/pagecache/dumps", {}))
    assert failed["error"]["type"] == "/problems/no-space"
    filler.unlink()
    daemon.stop()
    daemon.restart()
    assert daemon.http.get("/readyz").status_code == 200
