"""Manifests of names that no person would give, of links and of special files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.capabilities.building import (
    MIB,
    build,
    digest,
    verify,
)
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file

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
