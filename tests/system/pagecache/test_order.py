"""The order of a load: what several dumps show to be needed most comes first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.records import encode, header, page_line
from tests.oracles.residency import PAGE, evict, pinned, resident_pages
from tests.support.capabilities.pagecache import DUMPS, dump, load, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file

PAGES = 640
HOT = range(0, PAGES, 2)
"""Scattered, so that no choice of whole pieces finds them."""


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that keeps more dumps than decide."""
    return start_daemon(pagecache={"dumps_kept": 10})


def drifting(nth: int, pages: int = PAGES) -> range:
    """Return the pages of a file of which others are in memory each time."""
    return range(nth % 2, pages, 2)


def mtime(path: Path) -> int:
    """Return when a file was changed, as records have it."""
    return path.stat().st_mtime_ns // 10**6


class History:
    """A root with files, and dumps that say which of their pages were in memory."""

    def __init__(self, daemon: Daemon, *names: str, **pages: int) -> None:
        self.daemon = daemon
        self.pages = dict.fromkeys(names, PAGES) | pages
        self.paths = {
            name: write_file(daemon.root / name, count * PAGE) for name, count in self.pages.items()
        }
        self.evict()

    def evict(self) -> None:
        """Drop all files from memory."""
        for path in self.paths.values():
            evict(path)

    def dump(self, pages: Mapping[str, Iterable[int]], **changes: Mapping[str, int]) -> str:
        """Store a dump of these pages, with changes to the lines of files; return its id."""
        lines = [
            page_line(name, self.pages[name] * PAGE, chosen, mtime_ms=mtime(self.paths[name]))
            | dict(changes.get(name, {}))
            for name, chosen in pages.items()
        ]
        return upload(self.daemon, encode(header(self.daemon.root), lines))

    def load(self, dump_id: str, **body: Any) -> tuple[dict[str, Any], dict[str, int]]:
        """Load a dump; return the result, and how many pages of each file were allowed."""
        self.evict()
        result = load(self.daemon, dump=dump_id, report="all", **body)
        return result, {
            Path(each["path"]).name: (each["requested"] - each["skipped"]) // PAGE
            for each in result["reported"]
        }


def test_pages_of_every_dump_come_before_those_of_the_last(daemon: Daemon) -> None:
    history = History(daemon, "f")
    ids = [history.dump({"f": HOT}) for _ in range(5)]
    ids.append(history.dump({"f": range(PAGES)}))
    # A host may reclaim pages between the load and our check; not three times in a row.
    for _ in range(3):
        result, _ = history.load(ids[-1], budget_bytes=len(HOT) * PAGE)
        found = resident_pages(history.paths["f"])
        if found >= set(HOT):
            break
    assert found >= set(HOT)
    assert len(found) <= len(HOT) * 1.01
    assert (result["order"], result["order_detail"]) == ("dumps", None)
    assert result["dumps"] == ids[::-1]
    assert result["dumps_left_out"] == []
    # Six times out of six, against once: 6/7 of the expected uses fall on half of the pages.
    assert result["recall"] == pytest.approx(1 / 2)
    assert result["expected_hits"] == pytest.approx(6 / 7, abs=0.01)


def test_files_whose_pages_stay_come_before_those_that_are_read_through(daemon: Daemon) -> None:
    history = History(daemon, "scan", "table")
    for nth in range(6):
        last = history.dump({"scan": drifting(nth), "table": HOT})
    result, allowed = history.load(last, budget_bytes=len(HOT) * PAGE)
    assert allowed == {"table": len(HOT), "scan": 0}
    assert result["expected_hits"] > 0.9
    even, allowed = history.load(last, budget_bytes=len(HOT) * PAGE, order="share")
    assert (even["order"], even["expected_hits"], even["dumps"]) == ("share", None, [])
    assert all(abs(pages - len(HOT) // 2) <= 64 for pages in allowed.values())


@pytest.mark.parametrize(
    "before", [{"size": 2 * PAGES * PAGE}, {"mtime_ms": 1 << 42}, {"size": PAGES * PAGE - 1}]
)
def test_a_file_that_was_replaced_counts_from_anew(daemon: Daemon, before: dict[str, int]) -> None:
    history = History(daemon, "replaced", "steady", "scan")
    for nth in range(5):
        # Another file of that name, of which the same pages were in memory each time.
        history.dump({"replaced": HOT, "steady": HOT, "scan": drifting(nth)}, replaced=before)
    last = history.dump({"replaced": HOT, "steady": HOT, "scan": drifting(5)})
    result, allowed = history.load(last, budget_bytes=3 * len(HOT) // 2 * PAGE)
    assert result["order"] == "dumps"
    # Nothing is known of it, so it comes between what stays and what does not.
    assert allowed == {"steady": len(HOT), "replaced": len(HOT) // 2, "scan": 0}


class TestWithoutASignal:
    def test_one_dump_is_shared_evenly(self, daemon: Daemon) -> None:
        history = History(daemon, "a", "b")
        only = history.dump({"a": range(PAGES), "b": range(PAGES)})
        result, allowed = history.load(only, budget_bytes=PAGES * PAGE, order="dumps")
        assert (result["order"], result["dumps"], result["expected_hits"]) == ("share", [], None)
        assert "no earlier dump" in result["order_detail"]
        assert all(abs(pages - PAGES // 2) <= 64 for pages in allowed.values())

    def test_all_of_it_is_read_as_it_is_on_the_device(self, daemon: Daemon) -> None:
        history = History(daemon, "f")
        for _ in range(2):
            last = history.dump({"f": range(PAGES)})
        result, _ = history.load(last)
        assert (result["order"], result["recall"], result["expected_hits"]) == ("device", 1, None)

    def test_dumps_of_something_else_do_not_count(self, daemon: Daemon) -> None:
        history = History(daemon, "f", "g")
        directory = daemon.root / "part"
        path = write_file(directory / "h", 16 * PAGE)
        with pinned(path):
            part, _ = dump(daemon, path=str(directory))
            whole, _ = dump(daemon)
            described = daemon.http.get(f"{DUMPS}/{part['dump']}").json()
            assert described["path"] == "part"
            result = load(daemon, dump=whole["dump"], order="dumps")
        assert result["order"] != "dumps"
        assert "no earlier dump" in result["order_detail"]
        assert history.paths


def test_a_damaged_dump_before_it_is_left_out_and_named(daemon: Daemon) -> None:
    history = History(daemon, "f")
    ids = [history.dump({"f": HOT}) for _ in range(3)]
    last = history.dump({"f": range(PAGES)})
    (file,) = daemon.state_dir.rglob(f"{ids[1]}*.zst")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    result, _ = history.load(last, budget_bytes=len(HOT) * PAGE)
    assert (result["order"], result["dumps"]) == ("dumps", [last, ids[2], ids[0]])
    (unused,) = result["dumps_left_out"]
    assert unused["dump"] == ids[1]
    assert unused["detail"]
    assert result["expected_hits"] == pytest.approx(3 / 4, abs=0.01)


def test_a_damaged_dump_takes_the_place_of_none(daemon: Daemon) -> None:
    history = History(daemon, "f")
    ids = [history.dump({"f": HOT}) for _ in range(7)]
    last = history.dump({"f": range(PAGES)})
    (file,) = daemon.state_dir.rglob(f"{ids[-1]}*.zst")
    file.write_bytes(file.read_bytes()[:-20])
    daemon.stop()
    daemon.restart()
    result, _ = history.load(last, budget_bytes=len(HOT) * PAGE)
    assert result["dumps"] == [last, *ids[5:0:-1]]
    assert [unused["dump"] for unused in result["dumps_left_out"]] == [ids[-1]]
    # What is said to have decided did: six times out of six, against once.
    assert result["expected_hits"] == pytest.approx(6 / 7, abs=0.005)


def test_an_early_start_waits_for_expected_hits(daemon: Daemon) -> None:
    history = History(daemon, scan=4 * PAGES, table=PAGES)
    for nth in range(6):
        last = history.dump({"scan": drifting(nth, 4 * PAGES), "table": HOT})
    history.evict()
    # A fifth of the bytes is expected to be needed.
    done = daemon.cli("pagecache", "load", last, "--until", "90%", "--rate", "640KiB")
    assert done.returncode == 0, done.stderr
    found = re.search(
        r"([\d.]+) % of the expected hits after .*: operation (\w+) continues", done.stderr
    )
    assert found is not None, done.stderr
    assert float(found[1]) >= 90
    operation = daemon.http.post(f"/v1/operations/{found[2]}/cancel").json()
    assert operation["params"]["order"] == "dumps"
    assert operation["progress"]["expected_hits"] >= 0.9
    assert operation["progress"]["bytes_done"] < 0.9 * operation["progress"]["bytes_expected"]


def test_more_than_six_dumps_are_not_read(daemon: Daemon) -> None:
    history = History(daemon, "f")
    ids = [history.dump({"f": HOT}) for _ in range(8)]
    result, _ = history.load(ids[-1], budget_bytes=len(HOT) // 2 * PAGE)
    assert result["dumps"] == list(reversed(ids[2:]))
