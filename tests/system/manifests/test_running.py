"""Builds and verifications while they run: followed, killed, beside others, and giving way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations.ids import new_id
from tests.support.capabilities.building import BUILDS, MIB, build, built, progress_of, reached
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.load import device_under_load
from tests.support.machine.mounts import pressure_group

pytestmark = pytest.mark.alone

Starter = Callable[..., Daemon]


@pytest.mark.parametrize(
    ("accept", "prefix"), [("application/x-ndjson", ""), ("text/event-stream", "data:")]
)
def test_programs_are_told_the_file_too(daemon: Daemon, accept: str, prefix: str) -> None:
    write_file(daemon.root / "the-large-one", 8 * MIB)
    slow = daemon.start(BUILDS, {"bytes_per_second": 4 * MIB})
    url = f"/v1/operations/{slow['id']}/events"
    with daemon.http.stream("GET", url, headers={"Accept": accept}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith(prefix or "{")]
    reports = [json.loads(line.removeprefix(prefix)) for line in lines]
    hashing = [each["progress"] for each in reports if each["progress"]["phase"] == "hashing"]
    assert any(each["current"] == "the-large-one" for each in hashing)
    done = [each["bytes_done"] for each in hashing]
    assert done == sorted(done)
    ended = reports[-1]
    assert ended["state"] == "succeeded"
    assert ended["progress"]["current"] is None
    assert ended["progress"]["bytes_done"] == ended["progress"]["bytes_expected"] == 8 * MIB


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_verification_begins_again_with_the_same_manifest(daemon: Daemon, signal: str) -> None:
    path = write_file(daemon.root / "f", 24 * MIB)
    manifest = build(daemon).id
    operation = daemon.start(f"{BUILDS}/latest/verifications", {"bytes_per_second": 8 * MIB})
    reached(daemon, operation, 1)
    if signal == "SIGKILL":
        daemon.kill()
    else:
        assert daemon.stop() == 0
    # What was read a while ago proves nothing about now; nor does a manifest that came later.
    with path.open("r+b") as file:
        file.write(b"other")
    directory = daemon.state_dir / "manifests"
    (record,) = directory.glob(f"{manifest}*")
    later = new_id()
    (directory / f"{later}.manifest.zst").write_bytes(record.read_bytes())
    daemon.restart()
    result = daemon.finish(operation)["result"]
    assert result["manifest"] == manifest
    assert result["read_bytes"] >= result["bytes"] == 24 * MIB
    (finding,) = result["findings"]
    assert (finding["path"], finding["finding"]) == ("f", "mismatched")
    report = daemon.http.get(f"{BUILDS}/reports/{operation['id']}").text.splitlines()
    assert json.loads(report[1])["path"] == "f"
    assert daemon.http.get(f"{BUILDS}/latest").json()["id"] == later


def test_two_roots_are_read_at_the_same_time(start_daemon: Starter, disk_dir: Path) -> None:
    daemon = start_daemon(roots=[disk_dir / "one", disk_dir / "two"])
    for root in daemon.roots:
        write_file(root / "f", 4 * MIB)
    slow = [
        daemon.start(BUILDS, {"root": str(root), "bytes_per_second": 1 << 16})
        for root in daemon.roots
    ]
    for operation in slow:
        reached(daemon, operation, 0, current="f")
    for operation in slow:
        daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
        assert daemon.finish(operation)["state"] == "cancelled"


def test_manifests_are_compared_while_another_is_built(daemon: Daemon) -> None:
    write_file(daemon.root / "f", 8 * MIB)
    manifest = build(daemon).id
    slow = daemon.start(BUILDS, {"full": True, "bytes_per_second": 1 << 16})
    compared = daemon.run(f"{BUILDS}/comparisons", {"left": manifest, "right": "latest"})
    assert (compared["ok"], compared["right"]) == (True, manifest)
    assert progress_of(daemon, slow)["bytes_done"] < 8 * MIB
    daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
    daemon.finish(slow)


def test_it_gives_way_to_one_control_group(daemon: Daemon, disk_dir: Path) -> None:
    write_file(daemon.root / "f", 32 * MIB)
    load = write_file(disk_dir / "load", 256 * MIB)
    with pressure_group() as group:
        # By itself it takes a second, long enough to look around.
        body: dict[str, Any] = {
            "pressure": {"cgroup": group.name, "threshold_percent": 20},
            "bytes_per_second": 32 * MIB,
        }
        with device_under_load(load):
            # Of those who wait none is in the group.
            undisturbed = build(daemon, **body)
            assert undisturbed.result["pressure_wait_seconds"] == 0
        with device_under_load(load, group.directory):
            operation = daemon.start(BUILDS, {"full": True} | body)
            now = daemon.http.get(f"/v1/operations/{operation['id']}?wait=4").json()
            assert now["state"] == "running"
        found = built(daemon, operation)
        assert found.result["pressure_wait_seconds"] > 2
        assert found.lines == undisturbed.lines
