"""Loads: what a dump asked for is in memory afterwards, no more, and within every limit."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracles.records import encode, header, line, page_line
from tests.oracles.residency import PAGE, evict, pinned, resident_pages
from tests.support.capabilities.pagecache import DUMPS, LOADS, dump, load, upload, uploaded
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.mounts import memory_group
from tests.support.promptness import promptly
from tests.support.waiting import until

PAGES = 1500


def pages_of(pattern: str) -> set[int]:
    chance = random.Random(pattern)
    return {
        "all": set(range(PAGES)),
        "alternate": set(range(0, PAGES, 2)),
        "random": {page for page in range(PAGES) if chance.random() < 0.25},
        "runs": {page for page in range(PAGES) if page // 7 % 3 == 1},
        "one": {700},
    }[pattern]


@pytest.mark.parametrize("pattern", ["all", "alternate", "random", "runs", "one"])
def test_the_same_pages_and_no_others(daemon: Daemon, pattern: str) -> None:
    path = write_file(daemon.root / "f", PAGES * PAGE)
    wanted = pages_of(pattern)
    with pinned(path, wanted):
        dump(daemon)
    # A host may reclaim pages between the load and our check; not three times in a row.
    for _ in range(3):
        evict(path)
        result = load(daemon)
        found = resident_pages(path)
        if found >= wanted:
            break
    assert found >= wanted
    assert len(found - wanted) <= len(wanted) // 100
    assert (result["recall"], result["missing"]) == (1.0, 0)
    assert result["requested"] == len(wanted) * PAGE
    assert (result["files"], result["files_complete"]) == (1, 1)


def test_what_is_there_already_is_not_read(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 100 * PAGE)
    with pinned(path):
        dump(daemon)
    with pinned(path, range(40)):
        result = load(daemon)
    assert (result["already_resident"], result["loaded"]) == (40 * PAGE, 60 * PAGE)


class TestFilesThatChanged:
    """Each policy on files that are no longer those that were dumped."""

    @pytest.fixture
    def names(self, daemon: Daemon) -> dict[str, Path]:
        kinds = ("same", "touched", "grown", "shrunk", "empty", "gone", "dir", "link", "fifo")
        files = {name: write_file(daemon.root / name, 10 * PAGE) for name in kinds}
        record = encode(
            header(daemon.root),
            [
                line(name, 10 * PAGE, mtime_ms=path.stat().st_mtime_ns // 1_000_000)
                for name, path in files.items()
            ],
        )
        upload(daemon, record)
        os.utime(files["touched"], (1, 1))
        with files["grown"].open("ab") as file:
            file.write(bytes(PAGE))
        os.truncate(files["shrunk"], 3 * PAGE + 1)
        os.truncate(files["empty"], 0)
        for name in ("gone", "dir", "link", "fifo"):
            files[name].unlink()
        files["dir"].mkdir()
        files["link"].symlink_to(files["same"])
        os.mkfifo(files["fifo"])
        for name in ("same", "touched", "grown", "shrunk"):
            evict(files[name])
        return files

    def test_strict(self, daemon: Daemon, names: dict[str, Path]) -> None:
        result = load(daemon, dump=uploaded(daemon), policy="strict")
        assert result["loaded"] == 10 * PAGE
        assert result["skipped"]["changed"] == 4
        assert result["skipped"]["vanished"] == 1
        assert result["files"] == len(names)
        assert not resident_pages(names["grown"])

    def test_clamp(self, daemon: Daemon, names: dict[str, Path]) -> None:
        result = load(daemon, dump=uploaded(daemon))
        assert result["loaded"] == (10 + 10 + 10 + 4) * PAGE
        assert result["skipped_bytes_by_reason"]["beyond_end"] == (6 + 10) * PAGE
        assert result["skipped"]["vanished"] == 1
        assert result["skipped"]["symlink"] == 1
        assert result["recall"] == 1
        reported = {Path(each["path"]).name: each for each in result["reported"]}
        assert set(reported) == set(names) - {"same", "touched", "grown"}
        assert reported["shrunk"]["skipped"] == 6 * PAGE

    def test_all_files_are_reported_if_asked_for(
        self, daemon: Daemon, names: dict[str, Path]
    ) -> None:
        result = load(daemon, dump=uploaded(daemon), report="all")
        assert {Path(each["path"]).name for each in result["reported"]} == set(names)
        assert result["reported_all"]


def test_holes_are_not_loaded(daemon: Daemon) -> None:
    path = daemon.root / "f"
    with path.open("wb") as file:
        file.truncate(64 * PAGE)
        file.seek(16 * PAGE)
        file.write(os.urandom(8 * PAGE))
    evict(path)
    dump_id = upload(daemon, encode(header(daemon.root), [line("f", 64 * PAGE)]))
    result = load(daemon, dump=dump_id)
    assert result["skipped_bytes_by_reason"] == {"hole": 56 * PAGE}
    assert result["loaded"] == 8 * PAGE


class TestBudget:
    def test_it_is_kept_to_the_page(self, daemon: Daemon) -> None:
        files = {name: write_file(daemon.root / name, 40 * PAGE) for name in ("a", "b")}
        lines = [line(name, 40 * PAGE) for name in files]
        dump_id = upload(daemon, encode(header(daemon.root), lines))
        for path in files.values():
            evict(path)
        result = load(daemon, dump=dump_id, budget_bytes=45 * PAGE + 17)
        assert result["loaded"] == 45 * PAGE
        assert (result["stopped"], result["budget_limit"]) == ("budget", "request")
        assert result["skipped_bytes_by_reason"] == {"budget": 35 * PAGE}
        assert result["recall"] == pytest.approx(45 / 80)
        assert result["budget_recall"] == 1

    @pytest.mark.parametrize(("numerator", "denominator"), [(1, 2), (1, 4), (5, 8)])
    def test_every_file_gets_its_share(
        self, daemon: Daemon, numerator: int, denominator: int
    ) -> None:
        piece = 64
        sizes = {"a": 2048, "b": 2048, "c": 100, "d": 640, "e": 2048, "f": 1, "g": 1024}
        lines = []
        for name, pages in sizes.items():
            evict(write_file(daemon.root / name, pages * PAGE))
            lines.append(line(name, pages * PAGE))
        dump_id = upload(daemon, encode(header(daemon.root), lines))
        total = sum(sizes.values())
        budget = total * numerator // denominator
        result = load(daemon, dump=dump_id, budget_bytes=budget * PAGE, report="all")
        assert result["skipped_bytes_by_reason"] == {"budget": (total - budget) * PAGE}
        # In the order of the files the last would get nothing. What the budget allowed is counted,
        # since the host may have reclaimed some of it again. Beside its share, a file may have what
        # was left of the budget, which is less than a piece.
        allowed = {
            Path(each["path"]).name: (each["requested"] - each["skipped"]) // PAGE
            for each in result["reported"]
        }
        assert allowed.keys() == sizes.keys()
        for name, pages in sizes.items():
            share = pages * budget / total
            assert share - piece < allowed[name] < share + 2 * piece, name

    def test_tiers_of_an_earlier_version_are_read_as_one(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "f", 40 * PAGE)
        tiers: tuple[dict[str, list[int]], ...]
        tiers = {"runs": [0, 10, 10, 5]}, {"runs": []}, {"runs": [10, 10]}, {"runs": [30, 2]}
        content = encode(header(daemon.root, hotness=True), [line("f", 40 * PAGE, *tiers)])
        dump_id = upload(daemon, content)
        evict(path)
        result = load(daemon, dump=dump_id)
        assert (result["loaded"], result["recall"]) == (27 * PAGE, 1)
        assert resident_pages(path) >= {*range(25), 30, 31}

    def test_a_reserve_larger_than_the_machine(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "f", 10 * PAGE)
        with pinned(path):
            dump(daemon)
        evict(path)
        result = load(daemon, reserve_bytes=1 << 60)
        assert (result["loaded"], result["budget"], result["stopped"]) == (0, 0, "budget")
        assert (result["recall"], result["budget_recall"]) == (0, 1)
        assert not resident_pages(path)

    def test_a_control_group(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "f", 64 << 20)
        with pinned(path):
            dump(daemon)
        # Its first load takes memory for what the daemon keeps, which is not to count here.
        load(daemon, reserve_bytes=0)
        evict(path)
        with memory_group() as group:
            # Above what the daemon may come to use itself while it is in there.
            group.limit(40 << 20)
            group.add(daemon.pid)
            result = load(daemon, reserve_bytes=0)
            assert result["budget_limit"] == group.name
            assert 0 < result["loaded"] <= 40 << 20
            assert result["stopped"] is not None
            assert result["missing"] <= result["loaded"] // 100
            daemon.stop()


def test_a_rate_limit(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 4 << 20)
    with pinned(path):
        dump(daemon)
    evict(path)
    began = time.monotonic()
    result = load(daemon, bytes_per_second=2 << 20)
    took = time.monotonic() - began
    assert result["loaded"] == 4 << 20
    # The first portion is granted at once.
    assert took >= 1.5


def test_cancelled_midway(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 32 << 20)
    with pinned(path):
        dump(daemon)
    evict(path)
    operation = daemon.start(LOADS, {"bytes_per_second": 4 << 20})
    until(lambda: resident_pages(path), seconds=10, what="the first pages")
    with promptly(1):
        daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
        ended = daemon.finish(operation)
    assert ended["state"] == "cancelled"
    assert len(resident_pages(path)) < (32 << 20) // PAGE


def test_killed_midway_it_goes_on(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 12 << 20)
    with pinned(path):
        first, _ = dump(daemon)
    evict(path)
    operation = daemon.start(LOADS, {"dump": "latest", "bytes_per_second": 3 << 20})
    until(lambda: resident_pages(path), seconds=10, what="the first pages")
    daemon.kill()
    daemon.restart()
    ended = daemon.finish(operation)
    assert (ended["state"], ended["id"]) == ("succeeded", operation["id"])
    assert ended["result"]["dump"] == first["dump"]
    assert ended["result"]["recall"] == 1


def test_a_dump_is_carried_to_another_node(start_daemon: Callable[..., Daemon]) -> None:
    one, other = start_daemon(), start_daemon()
    there = write_file(one.root / "db" / "f", 50 * PAGE, seed=1)
    here = write_file(other.root / "db" / "f", 50 * PAGE, seed=1)
    wanted = set(range(0, 50, 3))
    with pinned(there, wanted):
        made, _ = dump(one)
    content = one.http.get(f"{DUMPS}/{made['dump']}/content").content
    dump_id = upload(other, content)
    refused = other.http.post(LOADS, json={"dump": dump_id})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "root"
    evict(here)
    result = load(other, dump=dump_id, root=str(other.root))
    assert (result["loaded"], result["recall"]) == (len(wanted) * PAGE, 1)


def test_other_pages_sizes_are_converted_if_asked_for(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 64 * PAGE)
    evict(path)
    large = 16 * PAGE
    record = encode(header(daemon.root, page_size=large), [page_line("f", 64 * PAGE, {1, 3})])
    dump_id = upload(daemon, record)
    operation = daemon.finish(daemon.start(LOADS, {"dump": dump_id}))
    assert operation["error"]["type"] == "/problems/bad-record"
    assert "policy `any`" in operation["error"]["detail"]
    assert not resident_pages(path)
    result = load(daemon, dump=dump_id, policy="any")
    assert result["requested"] == 2 * large
    assert resident_pages(path) >= {*range(16, 32), *range(48, 64)}


def test_a_hostile_dump_reaches_nothing_outside(daemon: Daemon, disk_dir: Path) -> None:
    secret = write_file(disk_dir / "secret" / "f", 4 * PAGE)
    evict(secret)
    (daemon.root / "way-out").symlink_to(secret.parent)
    dump_id = upload(daemon, encode(header(daemon.root), [line("way-out/f", 4 * PAGE)]))
    result = load(daemon, dump=dump_id)
    assert result["loaded"] == 0
    assert result["skipped"] == {"symlink": 1}
    assert not resident_pages(secret)
