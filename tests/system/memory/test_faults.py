"""Kills, shortage, damage and hostile saves: a restore is complete or the tmpfs is as before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.memory import (
    MIB,
    MemoryNode,
    fill,
    memory_node,
    read_index,
    tree,
    write_index,
)
from tests.support.daemon.harness import Daemon
from tests.support.machine.mounts import ext4
from tests.support.waiting import until


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[MemoryNode]:
    """Give a node with a root in memory."""
    with memory_node(start_daemon, disk_dir) as made:
        yield made


def slowly(node: MemoryNode, path: str, **body: Any) -> dict[str, Any]:
    """Start an operation under a low rate, and return it once bytes have moved."""
    operation = node.daemon.start(f"/v1/memory/{path}", {"bytes_per_second": 4 * MIB} | body)

    def moved() -> bool:
        now = node.daemon.http.get(f"/v1/operations/{operation['id']}").json()
        assert now["state"] in ("queued", "running"), now
        return bool(now["progress"]["bytes_done"])

    until(moved, what="the first bytes")
    return operation


def test_a_kill_in_the_middle_of_a_save_leaves_none_that_is_half_there(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(os.urandom(6 * MIB))
    before = tree(node.root)
    operation = slowly(node, "saves")
    node.daemon.kill()
    assert [path.name for path in node.saves.iterdir()] == [f".{operation['id']}.partial"]
    node.daemon.restart()
    # It is made again from the beginning.
    assert node.daemon.finish(operation)["state"] == "succeeded"
    assert [path.name for path in node.saves.iterdir()] == [operation["id"]]
    node.lose()
    node.restore()
    assert tree(node.root) == before


def test_a_kill_in_the_middle_of_a_restore_is_resumed(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(os.urandom(6 * MIB))
    before = tree(node.root)
    node.save()
    node.lose()
    operation = slowly(node, "restores")
    node.daemon.kill()
    assert [path.name for path in node.root.iterdir()] == [".holdfast-restore"]
    node.daemon.restart()
    finished = node.daemon.finish(operation)
    assert finished["result"]["restored"], finished
    assert tree(node.root) == before


def test_a_restore_that_was_cut_off_between_two_renames_is_completed(node: MemoryNode) -> None:
    """What a kill leaves there is made by hand: it lasts for microseconds."""
    for name, size in (("memory_file", MIB), ("memory_file.meta", 300)):
        (node.root / name).write_bytes(os.urandom(size))
    before = tree(node.root)
    node.save()
    node.lose()
    operation = slowly(node, "restores", bytes_per_second=MIB)
    node.daemon.kill()
    staging = node.root / ".holdfast-restore"
    shutil.rmtree(staging)
    (staging / "tree").mkdir(parents=True)
    staging.chmod(0o700)
    save = next(node.saves.iterdir())
    units = []
    for name in ("memory_file", "memory_file.meta"):
        whole = b"restored " + name.encode()
        (staging / "tree" / name).write_bytes(whole)
        inode = (staging / "tree" / name).stat().st_ino
        units.append({"path": name, "exchange": False, "ino": inode})
    (staging / "journal.json").write_text(json.dumps(units))
    (staging / "tree" / "memory_file").rename(node.root / "memory_file")
    result = {"save": save.name, "root": str(node.root), "restored": True}
    used = {"at": "2026-01-01T00:00:00Z", "operation": operation["id"], "result": result}
    (save / "used.json").write_text(json.dumps(used))
    node.daemon.restart()
    assert node.daemon.finish(operation)["result"]["restored"]
    assert tree(node.root).keys() == before.keys()
    assert (node.root / "memory_file.meta").read_bytes() == b"restored memory_file.meta"


def test_a_restore_that_is_cancelled_leaves_nothing(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(os.urandom(6 * MIB))
    node.save()
    node.lose()
    (node.root / "other").write_bytes(b"stays")
    operation = slowly(node, "restores")
    node.daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
    assert node.daemon.finish(operation)["state"] == "cancelled"
    assert {path.name: path.read_bytes() for path in node.root.iterdir()} == {"other": b"stays"}
    assert node.restore()["restored"]


def test_a_full_volume_fails_the_save_and_keeps_the_one_before(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    with ext4(disk_dir / "volume", 24 * MIB) as volume:
        roots = [volume / "data"]
        settings: dict[str, Any] = {"roots": roots, "state_dir": str(volume / "state")}
        with memory_node(start_daemon, disk_dir, **settings) as node:
            (node.root / "file").write_bytes(os.urandom(MIB))
            kept = node.save()["save"]
            (node.root / "large").write_bytes(os.urandom(32 * MIB))
            assert node.refused("saves")["type"] == "/problems/no-space"
            assert [path.name for path in node.saves.iterdir()] == [kept]
            node.daemon.stop()


def test_too_small_a_tmpfs_is_refused_before_anything_is_written(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(os.urandom(8 * MIB))
    node.save()
    node.lose(4 * MIB)
    (node.root / "other").write_bytes(b"stays")
    problem = node.refused("restores")
    assert problem["type"] == "/problems/insufficient-memory"
    assert "remount,size" in problem["detail"]
    assert tree(node.root).keys() == {"other"}
    subprocess.run(["mount", "-o", "remount,size=32m", node.root], check=True)
    assert node.restore()["restored"]


@pytest.mark.parametrize("name", ["data", "index.zst"])
def test_a_flipped_bit_refuses_all_of_the_save(node: MemoryNode, name: str) -> None:
    fill(node.root)
    save = node.save()["save"]
    node.lose()
    (node.root / "other").write_bytes(b"stays")
    stored = node.stored(save, name)
    with stored.open("r+b") as file:
        file.seek(stored.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    problem = node.refused("restores")
    assert problem["type"] == "/problems/bad-record"
    assert str(stored) in problem["detail"]
    assert tree(node.root).keys() == {"other"}


HOSTILE = (
    "above",
    "absolute",
    "through a missing directory",
    "set-user-id",
    "capability",
    "beyond its size",
    "beyond the content",
    "without end",
    "in the staging directory",
)


def hostile(lines: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Change the lines of an index as an enemy would."""
    file = next(line for line in lines if line.get("kind") == "file")
    chunk = next(line for line in lines if line.get("kind") == "chunk")
    match what:
        case "above":
            file["path"] = "../escaped"
        case "absolute":
            file["path"] = "/tmp/escaped"
        case "through a missing directory":
            file["path"] = "link/escaped"
        case "set-user-id":
            file["kept"]["mode"] = 0o4755
        case "capability":
            file["kept"]["attributes"] = [["c2VjdXJpdHkuY2FwYWJpbGl0eQ==", "AAAA"]]
        case "beyond its size":
            chunk["data"] = [[1 << 40, 4096]]
        case "beyond the content":
            chunk["at"] = 1 << 40
        case "without end":
            file["size"] = (1 << 63) - 1
        case "in the staging directory":
            file["path"] = ".holdfast-restore"
    return lines


def test_a_hostile_index_writes_nothing(node: MemoryNode, disk_dir: Path) -> None:
    (node.root / "file").write_bytes(b"content" * 1000)
    index = node.stored(node.save()["save"], "index.zst")
    lines = json.dumps(read_index(index))
    node.lose()
    (node.root / "link").symlink_to(disk_dir)
    for what in HOSTILE:
        write_index(index, hostile(json.loads(lines), what))
        problem = node.refused("restores")
        assert problem["type"] == "/problems/bad-record", (what, problem)
        assert [path.name for path in node.root.iterdir()] == ["link"], what
    assert not Path("/tmp/escaped").exists()
    assert not (disk_dir / "escaped").exists()
    # What was written with care is restored: the changes are to blame.
    write_index(index, json.loads(lines))
    assert node.restore()["restored"]


def test_a_link_where_a_directory_was_leads_nowhere(node: MemoryNode, disk_dir: Path) -> None:
    (node.root / "sub").mkdir()
    (node.root / "sub" / "file").write_bytes(b"content")
    node.save()
    node.lose()
    outside = disk_dir / "outside"
    outside.mkdir()
    (node.root / "sub").symlink_to(outside)
    assert node.refused("restores", existing="replace")["type"] == "/problems/conflict"
    assert list(outside.iterdir()) == []


def test_a_link_in_place_of_the_content_is_not_followed(node: MemoryNode, disk_dir: Path) -> None:
    (node.root / "file").write_bytes(b"content")
    data = node.stored(node.save()["save"])
    data.rename(disk_dir / "elsewhere")
    data.symlink_to(disk_dir / "elsewhere")
    node.lose()
    assert node.refused("restores")["type"] == "/problems/bad-record"
