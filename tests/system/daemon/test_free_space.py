"""The floor of free space: nothing of holdfast's is written that would go below it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations.ids import new_id
from holdfast.storage.space import parse_floor
from tests.oracles.records import encode, header, line
from tests.oracles.residency import PAGE
from tests.support.capabilities.building import build
from tests.support.capabilities.pagecache import DUMPS, upload
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.disk import write_file
from tests.support.machine.mounts import ext4

MIB = 1 << 20
GIB = 1 << 30
BUILDS = "/v1/manifests"


@pytest.fixture
def volume(disk_dir: Path) -> Iterator[Path]:
    """Mount a small volume of a file system of its own."""
    with ext4(disk_dir / "volume", 96 * MIB) as place:
        yield place


def small(volume: Path, start_daemon: Callable[..., Daemon], **settings: Any) -> Daemon:
    return start_daemon(roots=[volume / "data"], state_dir=None, **settings)


def free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill(path: Path, left: int) -> None:
    """Write a file that leaves so much free."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(path.parent) - left)


def refused(problem: dict[str, Any]) -> None:
    assert problem["type"] == "/problems/no-space", problem
    detail = problem["detail"]
    assert "`data.free_space_floor`" in detail
    assert f"{20 * MIB} bytes" in detail


def test_the_default_is_bounded_on_small_volumes() -> None:
    def floor(setting: str, size: int) -> int:
        share, amount, most = parse_floor(setting)
        return max(size * share // 1000, min(amount, size * most // 1000))

    assert floor("auto", 1000 * GIB) == 50 * GIB
    assert floor("auto", 150 * GIB) == 10 * GIB
    assert floor("auto", 20 * GIB) == 2 * GIB
    assert floor("auto", 64 * MIB) == 64 * MIB // 10
    assert floor("2.5 %", 1000 * GIB) == 25 * GIB
    assert floor("10 GiB", 20 * GIB) == 10 * GIB
    assert floor("0", 20 * GIB) == 0
    for wrong in ("", "x", "-1", "100 %", "120%", "5 %%", "1e400"):
        with pytest.raises(ValueError, match="should be `auto`"):
            parse_floor(wrong)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    config = tmp_path / "holdfast.toml"
    config.write_text('[data]\nfree_space_floor = "lots"\n')
    done = run_cli("config", "check", "--config", config)
    assert done.returncode != 0
    assert "free_space_floor" in done.stdout + done.stderr


def test_nothing_is_written_below_the_floor(
    volume: Path, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = small(volume, start_daemon, data={"free_space_floor": "20 MiB"})
    file = write_file(daemon.root / "file", PAGE)
    manifest = build(daemon).id
    dump = daemon.run(DUMPS, {})["dump"]
    fill(volume / "others", 20 * MIB + 100_000)
    before = free(volume)
    for path, body in (
        (DUMPS, {}),
        (BUILDS, {}),
        (f"{BUILDS}/{manifest}/verifications", {}),
        (f"{BUILDS}/comparisons", {"left": manifest, "right": manifest}),
    ):
        response = daemon.http.post(path, json=body)
        assert response.status_code == 507, (path, response.text)
        refused(response.json())
    big = encode(header(), [line(os.urandom(500).hex(), PAGE) for _ in range(1000)])
    response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=big)
    assert response.status_code == 507, response.text
    refused(response.json())
    # Reading and what frees space continues.
    assert daemon.run("/v1/pagecache/loads", {"dump": dump})["files"] >= 1
    text = daemon.http.get(f"{BUILDS}/{manifest}/content", params={"format": "xxhsum"})
    assert text.status_code == 200
    assert file.name in text.text
    assert abs(free(volume) - before) < MIB
    metrics = daemon.http.get("/metrics").text
    (reported,) = re.findall(
        r"^holdfast_state_volume_free_floor_bytes (.*)$", metrics, re.MULTILINE
    )
    assert float(reported) == 20 * MIB
    assert "holdfast_state_volume_free_bytes " in metrics
    (volume / "others").unlink()
    assert daemon.run(DUMPS, {})["dump"] != dump


def test_a_writer_stops_at_the_floor_while_it_writes(
    volume: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """A report that grows past the floor ends, and nothing of it is left."""
    daemon = small(volume, start_daemon, data={"free_space_floor": "20 MiB"})
    for nth in range(40):
        directory = daemon.root / f"{nth:02}-{os.urandom(60).hex()}"
        directory.mkdir()
        for _ in range(600):
            (directory / os.urandom(100).hex()).touch()
    fill(volume / "others", 21 * MIB + 600_000)
    operation = daemon.finish(daemon.start(BUILDS, {"path": str(daemon.root)}))
    assert operation["state"] == "failed", operation
    refused(operation["error"])
    assert free(volume) > 20 * MIB
    left = [path.name for path in (daemon.state_dir / "manifests").iterdir()]
    assert left == []


def test_an_image_is_not_staged_below_the_floor(
    volume: Path, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    imager = "/nonexistent/imager"
    daemon = small(
        volume, start_daemon, data={"free_space_floor": "20 MiB"}, reimage={"imager": imager}
    )
    disk = daemon.root / "disk.raw"
    disk.write_bytes(os.urandom(2 * MIB))
    assert run_cli("image", "describe", disk).returncode == 0
    descriptor = (daemon.root / "disk.raw.json").read_bytes()
    fill(volume / "others", 21 * MIB)
    plan = daemon.http.post(
        "/v1/reimage/plan",
        json={
            "descriptor": f"file://{disk}.json",
            "descriptor_sha256": hashlib.sha256(descriptor).hexdigest(),
            "identity": [],
        },
    )
    assert plan.status_code == 200, plan.text
    (space,) = plan.json()["space"]
    assert space["needed_bytes"] == 22 * MIB
    assert any(
        "There is not enough space for the image" in reason for reason in plan.json()["blocked"]
    )


def test_work_without_a_daemon_keeps_to_it_too(volume: Path, tmp_path: Path) -> None:
    root = volume / "data"
    root.mkdir()
    write_file(root / "file", PAGE)
    config = tmp_path / "holdfast.toml"
    config.write_text(f'roots = {json.dumps([str(root)])}\n[data]\nfree_space_floor = "20 MiB"\n')
    local = ("--local", "--config", config)
    assert run_cli("pagecache", "dump", *local).returncode == 0
    fill(volume / "others", 20 * MIB)
    done = run_cli("pagecache", "dump", *local)
    assert done.returncode == 1, done.stdout
    assert "`data.free_space_floor`" in done.stderr
    upload_file = tmp_path / "x"
    upload_file.write_bytes(encode(header(), [line("a", PAGE)]))
    done = run_cli("pagecache", "import", upload_file, *local)
    assert done.returncode == 1
    assert "`data.free_space_floor`" in done.stderr


def test_an_upload_is_refused_before_it_takes_the_space(
    volume: Path, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = small(volume, start_daemon, data={"free_space_floor": "20 %"})
    fill(volume / "others", 30 * MIB)
    response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=os.urandom(16 * MIB))
    assert response.status_code == 507, response.text
    assert response.json()["type"] == "/problems/no-space"
    assert free(volume) > 25 * MIB
    upload(daemon, encode(header(), [line("a", PAGE)]))
