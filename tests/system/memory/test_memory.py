"""Files of a tmpfs are saved to the data volume and put back: all of them, or nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.memory import MIB, MemoryNode, fill, memory_node, tree
from tests.support.daemon.harness import Daemon


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[MemoryNode]:
    """Give a node with a root in memory."""
    with memory_node(start_daemon, disk_dir) as made:
        yield made


def test_what_is_restored_is_what_was_saved(node: MemoryNode) -> None:
    fill(node.root)
    before = tree(node.root)
    saved = node.save()
    assert saved["files"] == 5
    assert saved["bytes"] > 200 * MIB
    # Holes take no space.
    assert saved["data_bytes"] < saved["stored_bytes"] < 6 * MIB
    assert tree(node.root) == before
    node.lose()
    restored = node.restore()
    assert restored["restored"]
    assert tree(node.root) == before


def test_the_last_bytes_of_a_save_are_written_too(node: MemoryNode) -> None:
    # Several blocks are on their way to the device when the last one comes.
    (node.root / "large").write_bytes(os.urandom(40 * MIB))
    for number in range(6):
        last = os.urandom(500 + number)
        (node.root / "last").write_bytes(last)
        save = node.save()["save"]
        assert last in node.stored(save).read_bytes()[-4096:]


def test_a_save_is_restored_once_unless_asked_for_again(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(b"old")
    save = node.save()["save"]
    node.lose()
    node.restore()
    node.lose()
    problem = node.refused("restores")
    assert problem["type"] == "/problems/conflict"
    assert "newer" in problem["detail"]
    used = node.daemon.http.get("/v1/memory").json()["saves"]
    assert [record["id"] for record in used] == [save]
    assert used[0]["used_at"] is not None
    assert node.restore(again=True)["restored"]
    assert (node.root / "file").read_bytes() == b"old"


def test_before_a_start_nothing_to_restore_is_no_failure(node: MemoryNode) -> None:
    assert node.restore(before_start=True)["reason"] == "no-save"
    file = node.root / "file"
    file.write_bytes(b"saved")
    node.save()
    file.write_bytes(b"live")
    # The service was only restarted: what it has is newer, also after the next boot.
    assert node.restore(before_start=True)["reason"] == "files-present"
    assert file.read_bytes() == b"live"
    node.lose()
    assert node.restore(before_start=True)["reason"] == "used"
    assert list(node.root.iterdir()) == []


def test_a_restore_before_a_start_that_fails_uses_the_save_too(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(b"x" * 4 * MIB)
    node.save()
    node.lose(MIB)
    assert node.refused("restores", before_start=True)["type"] == "/problems/insufficient-memory"
    node.lose()
    assert node.restore(before_start=True)["reason"] == "used"


def test_a_save_that_is_too_old_is_not_restored(node: MemoryNode) -> None:
    (node.root / "file").touch()
    node.save()
    about = next(node.saves.glob("*/save.json"))
    about.write_text(about.read_text().replace('"created_at":"20', '"created_at":"19'))
    node.lose()
    assert "seconds old" in node.refused("restores", max_age_seconds=3600)["detail"]
    assert node.restore(before_start=True, max_age_seconds=3600)["reason"] == "too-old"


def test_files_that_are_there_are_replaced_only_if_asked_for(node: MemoryNode) -> None:
    (node.root / "one").write_bytes(b"one")
    (node.root / "two").write_bytes(b"two")
    node.save()
    (node.root / "one").write_bytes(b"live")
    (node.root / "two").unlink()
    assert "is there already" in node.refused("restores")["detail"]
    assert tree(node.root).keys() == {"one"}
    node.restore(existing="replace")
    assert {path.name: path.read_bytes() for path in node.root.iterdir()} == {
        "one": b"one",
        "two": b"two",
    }


def test_a_file_that_is_open_for_writing_is_neither_saved_nor_replaced(node: MemoryNode) -> None:
    file = node.root / "file"
    file.write_bytes(b"saved")
    node.save()
    with subprocess.Popen(["sh", "-c", f"exec sleep 60 3>>{file}"]) as holder:
        try:
            while not Path(f"/proc/{holder.pid}/fd/3").exists():
                pass
            saving = node.refused("saves")
            replacing = node.refused("restores", existing="replace")
            for problem in (saving, replacing):
                assert problem["type"] == "/problems/conflict"
                assert f"({holder.pid}) has {file} open" in problem["detail"]
            # A service that starts all the same has what is there.
            refused = node.refused("restores", before_start=True)
            assert refused["type"] == "/problems/conflict"
            shown = node.daemon.http.get("/v1/memory").json()["saves"]
            assert shown[0]["used_at"] is not None
            overruled = node.save(even_if_open=True)
            assert f"({holder.pid})" in overruled["open_for_writing"][0]
        finally:
            holder.kill()


def test_what_a_clean_stop_leaves_is_required(node: MemoryNode) -> None:
    (node.root / "memory_file").touch()
    problem = node.refused("saves", requires=["memory_file.meta"])
    assert problem["type"] == "/problems/conflict"
    assert "SIGUSR1" in problem["detail"]
    assert node.refused("saves", requires=["../x"])["type"] == "/problems/invalid-request"
    (node.root / "memory_file.meta").touch()
    assert node.save(requires=["memory_file.meta"])["files"] == 2


def test_patterns_choose_and_what_is_no_file_is_reported(node: MemoryNode) -> None:
    for name in ("app-1", "app-2", "other"):
        (node.root / name).touch()
    (node.root / "link").symlink_to("app-1")
    os.mkfifo(node.root / "pipe")
    operation = node.daemon.finish(
        node.daemon.start("/v1/memory/saves", {"exclude": ["app-2", "other"]})
    )
    assert operation["outcome"] == "partial"
    assert operation["result"]["files"] == 1
    assert operation["result"]["left_out"]["symlink"] == 1
    assert operation["result"]["left_out"]["fifo"] == 1
    operation = node.daemon.finish(node.daemon.start("/v1/memory/saves", {"include": ["app-*"]}))
    assert (operation["outcome"], operation["result"]["files"]) == ("ok", 2)


def test_a_newer_save_takes_the_place_of_an_older_one(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(b"1")
    node.save()
    (node.root / "file").write_bytes(b"2")
    second = node.save()["save"]
    assert [path.name for path in node.saves.iterdir()] == [second]
    deleted = node.daemon.http.delete(f"/v1/memory/saves/{second}")
    assert deleted.status_code == 204
    assert node.daemon.http.delete(f"/v1/memory/saves/{second}").status_code == 404
    assert node.refused("restores")["type"] == "/problems/not-found"


def test_only_configured_roots_on_tmpfs_are_touched(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    plain = disk_dir / "plain"
    plain.mkdir()
    daemon = start_daemon(memory={"roots": [str(plain), "/nonexistent"]})
    node = MemoryNode(daemon, plain)
    assert "not on tmpfs" in node.refused("saves", root=str(plain))["detail"]
    assert "does not exist" in node.refused("restores", root="/nonexistent")["detail"]
    assert node.refused("saves", root="/etc")["type"] == "/problems/outside-roots"
    assert "name one of" in node.refused("saves")["detail"]
    shown = daemon.cli("memory", "show")
    assert "not on tmpfs" in shown.stdout


def test_the_command_line_saves_shows_and_restores(node: MemoryNode) -> None:
    (node.root / "file").write_bytes(b"x" * MIB)
    saved = node.daemon.cli("memory", "save", node.root)
    assert saved.returncode == 0, saved.stderr
    assert "1 file" in saved.stdout
    node.lose()
    assert "fresh" in node.daemon.cli("memory", "show").stdout
    restored = node.daemon.cli("memory", "restore", node.root, "--before-start", "--max-age", "1h")
    assert restored.returncode == 0, restored.stderr
    assert "every byte verified" in restored.stdout
    again = node.daemon.cli("memory", "restore")
    assert again.returncode == 1
    assert "used" in again.stderr
    metrics = node.daemon.http.get("/metrics").text
    assert f'holdfast_memory_save_fresh{{root="{node.root}"}} 0.0' in metrics
