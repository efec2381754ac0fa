"""Ways of reading: which one is used and reported, and that the page cache is left unchanged."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.bench.daemon import own_seconds
from tests.oracles.residency import make_resident, page_count, pinned, resident_pages
from tests.support.capabilities.building import (
    BUILDS,
    MIB,
    READERS,
    Built,
    build,
    built,
    digest,
    verify,
)
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.disk import write_file
from tests.support.machine.faults import file_system
from tests.support.machine.load import device_under_load
from tests.support.machine.without import IO_URING, refusing
from tests.support.promptness import promptly

Starter = Callable[..., Daemon]


def some_files(root: Path) -> list[Path]:
    """Write files whose ends lie wherever ends of files lie."""
    sizes = (1, 511, 4095, 4096, 4097, 70_000, MIB, 5 * MIB + 123, 9 * MIB + 4096)
    return [write_file(root / f"d{n % 3}" / str(n), size, seed=n) for n, size in enumerate(sizes)]


def some_pages(path: Path) -> list[int]:
    """Choose pages of a file: none of some, runs of others, with the ends among them."""
    chance = random.Random(path.name)
    pages = range(page_count(path))
    if chance.random() < 0.2:
        return []
    return sorted({*chance.sample(pages, len(pages) // 4), pages[-1]})


def build_and_verify(daemon: Daemon, paths: list[Path]) -> tuple[Built, dict[str, Any]]:
    """Build and verify, and check every digest; what is checked afterwards is the residency."""
    found = build(daemon, full=True)
    checked = verify(daemon, found.id)
    assert found.result["ok"] == len(paths)
    assert checked["ok"]
    assert checked["matching"] >= len(paths)
    return found, checked


def check_digests(daemon: Daemon, found: Built, paths: list[Path]) -> None:
    for path in paths:
        assert found.lines[bytes(path.relative_to(daemon.root))]["xxh64"] == digest(path)


class TestResidency:
    @pytest.mark.parametrize("reader", READERS)
    def test_it_is_the_same_page_by_page(self, start_daemon: Starter, reader: str) -> None:
        """What is not there does not come; pinned, what is there cannot go by itself."""
        daemon = start_daemon(manifests={"reader": reader})
        paths = some_files(daemon.root)
        with ExitStack() as pins:
            before = {path: pins.enter_context(pinned(path, some_pages(path))) for path in paths}
            assert any(before.values())
            for path in paths:
                assert resident_pages(path) == before[path]
            found, checked = build_and_verify(daemon, paths)
            assert {path: resident_pages(path) for path in paths} == before
        for result in (found.result, checked):
            assert_read_by(result, reader)
        check_digests(daemon, found, paths)

    @pytest.mark.parametrize("reader", READERS)
    def test_what_is_there_stays(self, start_daemon: Starter, reader: str) -> None:
        """Not pinned, so that a reader that drops what it finds in memory would be seen.

        The kernel may reclaim pages meanwhile of its own accord, though hardly three times.
        """
        daemon = start_daemon(manifests={"reader": reader})
        paths = some_files(daemon.root)
        for _ in range(3):
            for path in paths:
                make_resident(path, some_pages(path))
            before = {path: resident_pages(path) for path in paths}
            build_and_verify(daemon, paths)
            after = {path: resident_pages(path) for path in paths}
            for path in paths:
                assert after[path] <= before[path]
            if after == before:
                return
        raise AssertionError("pages were dropped that had been in memory before")

    @pytest.mark.parametrize("kind", ["overlay", "xfs", "journal", "btrfs"])
    def test_on_other_file_systems(self, start_daemon: Starter, disk_dir: Path, kind: str) -> None:
        with file_system(kind, disk_dir / kind) as place, ExitStack() as pins:
            daemon = start_daemon(roots=[place / "data"])
            paths = some_files(daemon.root)
            before = {path: pins.enter_context(pinned(path, some_pages(path))) for path in paths}
            found, _ = build_and_verify(daemon, paths)
            assert {path: resident_pages(path) for path in paths} == before
            daemon_root = daemon.root
            pins.close()
            assert found.result["reader"]
            for path in paths:
                line = found.lines[bytes(path.relative_to(daemon_root))]
                assert line["xxh64"] == digest(path)
            daemon.stop()


def assert_read_by(result: dict[str, Any] | Any, reader: str) -> None:
    """The path that was asked for was taken, for all bytes that it is reported for."""
    wanted = {"io_uring": {"io_uring direct"}, "pread": {"pread direct"}}
    names = wanted.get(reader, {"pread buffered", "io_uring buffered"})
    assert result["reader"] in names
    assert set(result["reader_bytes"]) <= names
    assert sum(result["reader_bytes"].values()) == result["read_bytes"]


class TestChosen:
    def test_by_itself_the_best(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 3 * MIB)
        result = build(daemon).result
        assert_read_by(result, "io_uring")
        assert result["reader_note"] is None
        assert result["queue_depth"] >= 8
        (device,) = result["devices"]
        stat = daemon.root.stat().st_dev
        assert device["device"] == f"{os.major(stat)}:{os.minor(stat)}"
        assert device["width"] >= 1

    def test_without_io_uring(self, daemon: Daemon) -> None:
        paths = some_files(daemon.root)
        daemon.stop()
        daemon.wrapper = refusing(IO_URING)
        daemon.restart()
        found = build(daemon)
        check_digests(daemon, found, paths)
        for result in (found.result, verify(daemon, found.id)):
            assert_read_by(result, "pread")
            assert "io_uring" in result["reader_note"]
            assert "ermitted" in result["reader_note"]

    def test_without_io_uring_on_the_command_line(self, disk_dir: Path) -> None:
        root = disk_dir / "data"
        write_file(root / "f", 3 * MIB)
        arguments = ("--local", "--root", root, "--state-dir", disk_dir / "state", "--json")
        done = run_cli("manifest", "build", *arguments, wrapper=refusing(IO_URING))
        assert done.returncode == 0, done.stderr
        assert '"pread direct"' in done.stdout

    def test_on_tmpfs(self, start_daemon: Starter, disk_dir: Path) -> None:
        """Everything is in memory there anyway, and stays."""
        with file_system("tmpfs", disk_dir / "memory") as place:
            daemon = start_daemon(roots=[place / "data"])
            paths = some_files(daemon.root)
            found, _ = build_and_verify(daemon, paths)
            check_digests(daemon, found, paths)
            for path in paths:
                assert len(resident_pages(path)) == page_count(path)
            daemon.stop()

    def test_where_direct_reading_is_refused(self, start_daemon: Starter, disk_dir: Path) -> None:
        """An ext4 that journals data takes O_DIRECT, and reads through the page cache."""
        with file_system("journal", disk_dir / "journal") as place:
            daemon = start_daemon(roots=[place / "data"])
            paths = some_files(daemon.root)
            found, _ = build_and_verify(daemon, paths)
            assert "direct" not in found.result["reader"]
            assert found.result["reader_note"]
            check_digests(daemon, found, paths)
            daemon.stop()


class TestHoles:
    def test_they_are_hashed_and_not_read(self, daemon: Daemon) -> None:
        path = daemon.root / "sparse"
        with path.open("wb") as file:
            file.truncate(600 * MIB + 5)
            file.seek(300 * MIB)
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
        (daemon.root / "nothing").write_bytes(b"")
        with (daemon.root / "hole").open("wb") as file:
            file.truncate(100 * MIB + 1)
        found = build(daemon)
        for name in ("sparse", "hole", "nothing"):
            assert found.lines[name.encode()]["xxh64"] == digest(daemon.root / name)
        checked = verify(daemon, found.id)
        assert checked["ok"]
        for result in (found.result, checked):
            assert MIB <= result["read_bytes"] <= 2 * MIB
            assert result["hole_bytes"] + result["read_bytes"] == 700 * MIB + 6

    def test_a_hole_instead_of_the_data_differs(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "f", 4 * MIB)
        found = build(daemon)
        subprocess.run(
            ["fallocate", "--punch-hole", "--offset", "1MiB", "--length", "1MiB", path], check=True
        )
        checked = verify(daemon, found.id)
        assert not checked["ok"]
        assert checked["mismatched"] == 1


class TestGoodNeighbour:
    def test_the_rate_is_kept(self, daemon: Daemon) -> None:
        for number in range(4):
            write_file(daemon.root / str(number), 12 * MIB, seed=number)
        rate = 16 * MIB
        found = build(daemon)
        seconds = 48 * MIB / rate
        with promptly(seconds / 0.8):
            operation = daemon.finish(
                daemon.start(f"{BUILDS}/{found.id}/verifications", {"bytes_per_second": rate})
            )
        with promptly(seconds / 0.8):
            again = daemon.finish(daemon.start(BUILDS, {"full": True, "bytes_per_second": rate}))
        for each in (operation, again):
            assert each["result"]["read_bytes"] == 48 * MIB
            assert own_seconds(each) >= seconds / 1.2
            assert each["result"]["rate_wait_seconds"] > 1

    def test_it_gives_way_while_others_wait_for_the_device(
        self, daemon: Daemon, disk_dir: Path
    ) -> None:
        write_file(daemon.root / "f", 32 * MIB)
        # By itself it takes a second, long enough to look around.
        body = {"pressure": {"threshold_percent": 20}, "bytes_per_second": 32 * MIB}
        with device_under_load(write_file(disk_dir / "load", 256 * MIB)):
            operation = daemon.start(BUILDS, body)
            now = daemon.http.get(f"/v1/operations/{operation['id']}?wait=4").json()
            assert now["state"] == "running"
        found = built(daemon, operation)
        assert found.result["pressure_wait_seconds"] > 2
        assert found.result["ok"] == 1

    def test_a_limit_that_is_never_reached(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 16 * MIB)
        found = build(daemon, pressure={"threshold_percent": 100})
        assert found.result["pressure_wait_seconds"] == 0
        assert found.result["rate_wait_seconds"] == 0
