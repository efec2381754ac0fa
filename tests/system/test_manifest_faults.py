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

from tests.support.building import (
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
from tests.support.disk import write_file
from tests.support.faults import failing_device
from tests.support.harness import Daemon
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


NAMES = [
    b"plain",
    b"with space",
    b" leading and trailing ",
    b"new\nline",
    b"\n",
    b"carriage\rreturn",
    b"back\\slash",
    b"ends in backslash\\",
    b"\\",
    b"\\n",
    b"tab\tin it",
    b"-leading-dash",
    b"--help",
    b"-",
    b"*",
    b"'quoted' \"twice\"",
    b"$(touch x)",
    b"%s%n",
    b"\x01\x1b[31mred\x7f",
    b"n" * 255,
    b"\xff\xfe not UTF-8",
    b"\xc3",
    b"\xed\xa0\x80 surrogate",
    "ß…\u202e-reversed".encode(),
    "\N{PILE OF POO}".encode(),
    "e\u0301 and \u00e9".encode(),
    "\ufeffbom".encode(),
    b"stdin",
    b"...",
    b"a",
    b"A",
    b"a.b",
    b"a-",
    b"a0",
]


class TestNames:
    def test_of_every_kind(self, daemon: Daemon) -> None:
        root = os.fsencode(daemon.root)
        # A directory sorts as its path does, not as its path with a slash behind it.
        expected: dict[bytes, str] = {b"a/" + name: "" for name in NAMES if name != b"a"}
        (daemon.root / "a").mkdir()
        expected |= {name: "" for name in NAMES if name != b"a"}
        for number, name in enumerate(expected):
            with open(root + b"/" + name, "wb") as file:  # noqa: PTH123  # names are bytes
                file.write(b"%d" % number)
            expected[name] = digest(root + b"/" + name)
        found = build(daemon)
        files = {path: line["xxh64"] for path, line in found.lines.items() if path != b"a"}
        assert files == expected
        assert list(found.lines) == sorted(found.lines)
        for path, line in found.lines.items():
            assert ("path_b64" in line) == (not is_utf8(path))
        assert verify(daemon, found.id)["ok"]

    def test_deep_below(self, daemon: Daemon) -> None:
        """Deeper than a path may be long: reached from directory to directory."""
        levels, name = 20, "d" * 250
        before = os.open(daemon.root, os.O_RDONLY)
        opened = [before]
        try:
            for _ in range(levels):
                os.mkdir(name, dir_fd=opened[-1])
                opened.append(os.open(name, os.O_RDONLY, dir_fd=opened[-1]))
            fd = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=opened[-1])
            os.write(fd, b"deep")
            os.close(fd)
        finally:
            for fd in opened:
                os.close(fd)
        write_file(daemon.root / "file", 100)
        found = build(daemon)
        assert found.lines[b"file"]["status"] == "ok"
        deep = b"/".join([name.encode()] * levels) + b"/file"
        # Either it is there, or its absence is reported.
        assert deep in found.lines or found.result["errors"] > 0


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class TestLinks:
    def test_loops_end(self, daemon: Daemon) -> None:
        root = daemon.root
        write_file(root / "d" / "file", 100)
        targets = {
            "one": "two",
            "two": "one",
            "self": "self",
            "here": ".",
            "d/up": "..",
            "absolute": str(root),
            "out": "/etc",
            "dangling": "nowhere",
        }
        for name, target in targets.items():
            (root / name).symlink_to(target)
        found = build(daemon)
        assert set(found.lines) == {b"d", b"d/file", *(name.encode() for name in targets)}
        for name, target in targets.items():
            line = found.lines[name.encode()]
            assert (line["type"], line["target"]["path"]) == ("symlink", target)
        assert found.result["symlinks"] == len(targets)

    def test_a_target_that_is_not_utf8(self, daemon: Daemon) -> None:
        os.symlink(b"\xff\n", os.fsencode(daemon.root) + b"/link")  # noqa: PTH211  # bytes
        line = build(daemon).lines[b"link"]
        assert line["target"]["path_b64"] == "/wo="

    def test_other_names_of_a_file(self, daemon: Daemon) -> None:
        first = write_file(daemon.root / "b", 2 * MIB)
        for name in ("c", "a"):
            (daemon.root / name).hardlink_to(first)
        found = build(daemon)
        assert "hardlink_of" not in found.lines[b"a"]
        for path in (b"b", b"c"):
            assert found.lines[path]["hardlink_of"] == {"path": "a"}
        assert {line["xxh64"] for line in found.lines.values()} == {digest(first)}
        assert {line["nlink"] for line in found.lines.values()} == {3}
        assert found.result["hardlinks"] == 2
        assert found.result["read_bytes"] == found.result["bytes"] == 2 * MIB
        assert verify(daemon, found.id)["ok"]

    @pytest.mark.slow
    def test_a_directory_becomes_a_link_meanwhile(self, daemon: Daemon, disk_dir: Path) -> None:
        """A race that a user with a shell on the node could stage, again and again."""
        secret = write_file(disk_dir / "secret" / "f", 100_000, seed=1)
        inside = write_file(daemon.root / "swapped" / "f", 100_000, seed=2).parent
        ours, theirs = digest(inside / "f"), digest(secret)
        link, aside = daemon.root / "link", daemon.root / "aside"
        link.symlink_to(secret.parent)
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                for one, other in (
                    (inside, aside),
                    (link, inside),
                    (inside, link),
                    (aside, inside),
                ):
                    one.rename(other)

        thread = threading.Thread(target=swap)
        thread.start()
        types = set()
        try:
            for _ in range(60):
                found = build(daemon, full=True)
                types.add(found.lines.get(b"swapped", {"type": None})["type"])
                digests = {line.get("xxh64") for line in found.lines.values()}
                assert digests <= {None, ours}, theirs
        finally:
            stop.set()
            thread.join()
        # The race took place, and let nothing in.
        assert {"symlink", "directory"} <= types


def test_special_files_are_told_but_not_opened(daemon: Daemon) -> None:
    root = daemon.root
    os.mkfifo(root / "fifo")  # opening it would wait for a writer
    write_file(root / "file", 10)
    listener = subprocess.run(
        [sys.executable, "-c", "import socket, sys; socket.socket(1).bind(sys.argv[1])", "socket"],
        cwd=root,
        check=True,
    )
    assert listener.returncode == 0
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o20644, os.makedev(1, 3))
    found = build(daemon)
    assert found.lines[b"fifo"]["type"] == "fifo"
    assert found.lines[b"socket"]["type"] == "socket"
    assert found.result["ok"] == 1
    if os.geteuid() == 0:
        assert found.lines[b"null"]["type"] == "char"
    assert verify(daemon, found.id)["ok"]


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
