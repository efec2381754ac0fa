"""Manifests of what changes, fails or must not be read while it is being hashed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities.building import (
    BUILDS,
    MIB,
    READERS,
    Built,
    build,
    built,
    digest,
    lines_of,
    reached,
    verify,
)
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.faults import failing_device
from tests.support.promptness import promptly

Starter = Callable[..., Daemon]
SLOW = 8 * MIB
"""Bytes per second: reading a file of SIZE takes a second and a half."""
SIZE = 12 * MIB
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs another user, for which one must be root"
)


def meanwhile(daemon: Daemon, fault: Callable[[], object]) -> Built:
    """Build slowly, and have something happen while the largest file is in the middle."""
    operation = daemon.start(BUILDS, {"bytes_per_second": SLOW})
    reached(daemon, operation, SIZE // 3, current="large")
    fault()
    return built(daemon, operation)


class TestWhileItIsHashed:
    @pytest.fixture
    def large(self, daemon: Daemon) -> Path:
        write_file(daemon.root / "small", 5000, seed=1)
        return write_file(daemon.root / "large", SIZE, seed=2)

    def assert_as_it_is_now(self, daemon: Daemon, found: Built, large: Path) -> None:
        """It was noticed and read once more: the digest is that of what is there now."""
        stat = large.stat()
        line = found.lines[b"large"]
        assert (line["status"], line["size"], line["ino"]) == ("ok", stat.st_size, stat.st_ino)
        assert line["xxh64"] == digest(large)
        assert found.lines[b"small"]["xxh64"] == digest(daemon.root / "small")
        assert found.result["ok"] == 2
        assert found.result["read_bytes"] > found.result["bytes"]
        assert verify(daemon, found.id)["ok"]

    def test_truncated(self, daemon: Daemon, large: Path) -> None:
        found = meanwhile(daemon, lambda: os.truncate(large, SIZE // 2 + 77))
        self.assert_as_it_is_now(daemon, found, large)

    def test_emptied(self, daemon: Daemon, large: Path) -> None:
        found = meanwhile(daemon, lambda: os.truncate(large, 0))
        assert found.lines[b"large"]["size"] == 0
        assert found.lines[b"large"]["xxh64"] == "ef46db3751d8e999"
        assert found.result["ok"] == 2

    def test_extended(self, daemon: Daemon, large: Path) -> None:
        def extend() -> None:
            with large.open("ab") as file:
                file.write(b"more" * 1000)

        self.assert_as_it_is_now(daemon, meanwhile(daemon, extend), large)

    def test_rewritten_where_it_was_hashed_already(self, daemon: Daemon, large: Path) -> None:
        def rewrite() -> None:
            with large.open("r+b") as file:
                file.write(b"other")

        self.assert_as_it_is_now(daemon, meanwhile(daemon, rewrite), large)

    def test_replaced(self, daemon: Daemon, large: Path, disk_dir: Path) -> None:
        other = write_file(disk_dir / "other", SIZE // 2, seed=3)
        found = meanwhile(daemon, lambda: other.rename(large))
        self.assert_as_it_is_now(daemon, found, large)

    def test_deleted(self, daemon: Daemon, large: Path) -> None:
        found = meanwhile(daemon, large.unlink)
        assert found.lines[b"large"]["status"] == "vanished"
        assert (found.result["ok"], found.result["vanished"]) == (1, 1)
        (problem,) = found.result["problems"]
        assert (problem["path"], problem["status"]) == ("large", "vanished")

    def test_replaced_by_a_directory(self, daemon: Daemon, large: Path) -> None:
        def replace() -> None:
            large.unlink()
            large.mkdir()

        found = meanwhile(daemon, replace)
        assert found.lines[b"large"]["status"] in {"changed", "vanished"}
        assert found.result["ok"] == 1

    def test_replaced_by_a_link_that_leads_out(
        self, daemon: Daemon, large: Path, disk_dir: Path
    ) -> None:
        secret = write_file(disk_dir / "secret", SIZE, seed=4)

        def replace() -> None:
            large.unlink()
            large.symlink_to(secret)

        found = meanwhile(daemon, replace)
        assert found.lines[b"large"]["status"] in {"changed", "vanished"}
        assert digest(secret) not in str(found.lines)

    def test_changed_again_and_again(self, daemon: Daemon, large: Path) -> None:
        stop = threading.Event()

        def keep_writing() -> None:
            with large.open("r+b", buffering=0) as file:
                while not stop.wait(0.02):
                    file.seek(0)
                    file.write(os.urandom(8))

        writer = threading.Thread(target=keep_writing)
        try:
            found = meanwhile(daemon, writer.start)
        finally:
            stop.set()
            writer.join()
        assert found.lines[b"large"]["status"] == "changed"
        assert (found.result["ok"], found.result["changed"]) == (1, 1)
        (problem,) = found.result["problems"]
        assert (problem["path"], problem["status"]) == ("large", "changed")
        # A manifest without the digest proves nothing of it, and reports that.
        checked = verify(daemon, found.id)
        assert not checked["ok"]
        assert checked["unproven"] == 1


class TestBeforeItsTurn:
    """Of three files the middle one comes last: one reader starts large, the other small."""

    @pytest.fixture
    def middle(self, daemon: Daemon) -> Path:
        write_file(daemon.root / "large", SIZE, seed=1)
        write_file(daemon.root / "small", SIZE - 2 * MIB, seed=2)
        return write_file(daemon.root / "middle", SIZE - MIB, seed=3)

    def test_deleted(self, daemon: Daemon, middle: Path) -> None:
        found = meanwhile(daemon, middle.unlink)
        assert found.lines[b"middle"]["status"] == "vanished"
        assert (found.result["ok"], found.result["vanished"]) == (2, 1)

    def test_changed(self, daemon: Daemon, middle: Path) -> None:
        found = meanwhile(daemon, lambda: middle.write_bytes(b"short now"))
        assert found.lines[b"middle"]["xxh64"] == digest(middle)
        assert found.result["ok"] == 3

    @AS_ROOT
    def test_unreadable_by_then(self, start_daemon: Starter, disk_dir: Path) -> None:
        disk_dir.chmod(0o711)
        daemon = start_daemon(user=NOBODY)
        for name, size in {"large": SIZE, "small": SIZE - 2 * MIB, "middle": SIZE - MIB}.items():
            write_file(daemon.root / name, size)
        found = meanwhile(daemon, lambda: (daemon.root / "middle").chmod(0))
        assert found.lines[b"middle"]["status"] == "error"
        assert "ermission denied" in found.lines[b"middle"]["detail"]


@AS_ROOT
class TestNotPermitted:
    @pytest.fixture
    def found(self, start_daemon: Starter, disk_dir: Path) -> Built:
        disk_dir.chmod(0o711)
        daemon = start_daemon(user=NOBODY)
        write_file(daemon.root / "forbidden", 3 * MIB).chmod(0)
        write_file(daemon.root / "closed" / "file", 100).parent.chmod(0)
        # Of another owner, so that not even O_NOATIME is allowed.
        write_file(daemon.root / "foreign", 100_000).chmod(0o444)
        return build(daemon)

    def test_it_is_named_with_its_cause(self, found: Built) -> None:
        for path in (b"forbidden", b"closed"):
            assert found.lines[path]["status"] == "error"
            assert "ermission denied" in found.lines[path]["detail"]
        assert found.result["errors"] == 2
        problems = {problem["path"]: problem for problem in found.result["problems"]}
        assert set(problems) == {"forbidden", "closed"}
        assert found.result["problems_all"]

    def test_the_rest_is_there(self, found: Built) -> None:
        assert found.lines[b"foreign"]["status"] == "ok"
        assert b"closed/file" not in found.lines


class TestReadError:
    @pytest.mark.parametrize("reader", READERS)
    def test_in_the_middle_of_a_file(
        self, start_daemon: Starter, disk_dir: Path, reader: str
    ) -> None:
        with failing_device(disk_dir / "device") as device:
            daemon = start_daemon(roots=[device.root], manifests={"reader": reader})
            before = build(daemon)
            assert before.lines[b"file"]["xxh64"] == digest(device.file)
            device.break_down()

            found = build(daemon, full=True)
            line = found.lines[b"file"]
            assert line["status"] == "error"
            assert "nput/output error" in line["detail"]
            assert found.lines[b"good"]["xxh64"] == digest(device.good)
            assert (found.result["ok"], found.result["errors"]) == (1, 1)
            (problem,) = found.result["problems"]
            assert (problem["path"], problem["status"]) == ("file", "error")
            assert "nput/output error" in problem["detail"]
            assert found.result["reader"].startswith(reader.replace("buffered", "pread"))

            checked = verify(daemon, before.id)
            assert not checked["ok"]
            assert (checked["unreadable"], checked["matching"]) == (1, 1)
            assert (checked["mismatched"], checked["missing"]) == (0, 0)
            (finding,) = checked["findings"]
            assert (finding["path"], finding["finding"]) == ("file", "unreadable")
            assert "nput/output error" in finding["detail"]
            middle = sum(device.fragile) // 2
            assert all(
                middle - MIB < start < end <= device.fragile[1] for start, end in finding["ranges"]
            )
            daemon.stop()

    def test_an_unchanged_file_is_reused_but_never_believed(
        self, start_daemon: Starter, disk_dir: Path
    ) -> None:
        """The digest cache hides that the device fails; a verification is what finds it."""
        with failing_device(disk_dir / "device") as device:
            daemon = start_daemon(roots=[device.root])
            first = build(daemon)
            device.break_down()
            again = build(daemon)
            assert again.result["read_bytes"] == 0
            assert again.lines == first.lines
            assert verify(daemon, again.id)["unreadable"] == 1
            daemon.stop()


@contextmanager
def busy_machine(path: Path) -> Iterator[None]:
    """Keep every processor busy, and the device below a file."""
    spin = [sys.executable, "-c", "while True: pass"]
    read = [
        "bash",
        "-c",
        'while :; do dd "if=$0" of=/dev/null bs=1M iflag=direct 2>/dev/null; done',
    ]
    commands = [spin] * (os.cpu_count() or 1) + [[*read, str(path)]] * 2
    processes = [subprocess.Popen(command, process_group=0) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, 9)
            process.wait()


class TestCancelled:
    @pytest.fixture
    def large(self, daemon: Daemon) -> Path:
        return write_file(daemon.root / "large", 1024 * MIB)

    def cancelled_within_a_second(self, daemon: Daemon, operation: dict[str, Any]) -> None:
        with promptly(1):
            response = daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
            assert response.status_code == 202
            ended = daemon.http.get(f"/v1/operations/{operation['id']}?wait=10").json()
            assert ended["state"] == "cancelled", ended
        assert ended["error"]["type"] == "/problems/cancelled"

    def assert_nothing_left(self, daemon: Daemon) -> None:
        assert daemon.http.get(BUILDS).json()["manifests"] == []
        left = [path for path in (daemon.state_dir / "manifests").rglob("*") if path.is_file()]
        assert left == []

    def test_a_build_under_load(self, daemon: Daemon, large: Path) -> None:
        with busy_machine(large):
            operation = daemon.start(BUILDS, {})
            reached(daemon, operation, 1)
            self.cancelled_within_a_second(daemon, operation)
        self.assert_nothing_left(daemon)

    @pytest.mark.parametrize("limit", [{"bytes_per_second": MIB}, {"bytes_per_second": 1}])
    def test_a_build_that_waits(self, daemon: Daemon, large: Path, limit: dict[str, Any]) -> None:
        assert large.exists()
        operation = daemon.start(BUILDS, limit)
        reached(daemon, operation, 0, current="large")
        self.cancelled_within_a_second(daemon, operation)
        self.assert_nothing_left(daemon)

    def test_a_verification_under_load(self, daemon: Daemon, large: Path) -> None:
        found = build(daemon)
        with busy_machine(large):
            operation = daemon.start(f"{BUILDS}/{found.id}/verifications", {})
            reached(daemon, operation, 1)
            self.cancelled_within_a_second(daemon, operation)
        assert verify(daemon, found.id)["ok"]


def test_a_build_of_a_tree_that_goes_away(daemon: Daemon) -> None:
    """Everything below the root is deleted while it is being hashed; what is left is reported."""
    for number in range(20):
        write_file(daemon.root / "d" / str(number), MIB, seed=number)
    operation = daemon.start(BUILDS, {"bytes_per_second": SLOW})
    reached(daemon, operation, 3 * MIB)
    for path in (daemon.root / "d").iterdir():
        path.unlink()
    (daemon.root / "d").rmdir()
    found = built(daemon, operation)
    assert found.result["ok"] + found.result["vanished"] == 20
    assert found.result["vanished"] > 0
    assert found.lines == lines_of(daemon, "latest")
