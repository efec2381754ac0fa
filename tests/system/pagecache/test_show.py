"""Residency as it is shown: sums, levels, the largest, and what the kernel reports besides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.oracles.residency import PAGE, evict, make_resident, pinned
from tests.support.capabilities.pagecache import SHOW
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file


def show(daemon: Daemon, **query: Any) -> dict[str, Any]:
    response = daemon.http.get(SHOW, params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def residents(items: list[dict[str, Any]], top: Path) -> dict[str, int]:
    return {str(Path(item["path"]).relative_to(top)): item["resident"] // PAGE for item in items}


def test_levels_and_the_largest(daemon: Daemon) -> None:
    root = daemon.root
    wanted = {"a/x/1": 10, "a/x/2": 5, "a/y/3": 7, "b/4": 20, "5": 3, "6": 0}
    with ExitStack() as stack:
        for name, pages in wanted.items():
            path = write_file(root / name, 32 * PAGE)
            stack.enter_context(pinned(path, range(pages)))
        (flat,) = show(daemon, depth=1, top=3)["reports"]
        (deep,) = show(daemon, depth=2, top=50)["reports"]
        (part,) = show(daemon, path=str(root / "a"))["reports"]
        (file,) = show(daemon, path=str(root / "b" / "4"))["reports"]
    assert flat["total"] | {"dirty": 0, "writeback": 0} == flat["total"]
    assert (flat["total"]["files"], flat["total"]["bytes"]) == (6, 6 * 32 * PAGE)
    assert flat["total"]["resident"] == 45 * PAGE
    assert residents(flat["directories"], root) == {"a": 22, "b": 20}
    assert residents(flat["files"], root) == {"b/4": 20, "a/x/1": 10, "a/y/3": 7}
    assert residents(deep["directories"], root) == {"a": 22, "b": 20, "a/x": 15, "a/y": 7}
    assert residents(deep["files"], root) == {k: v for k, v in wanted.items() if v}
    assert (part["total"]["kind"], part["total"]["resident"]) == ("directory", 22 * PAGE)
    assert (file["total"]["kind"], file["total"]["resident"]) == ("file", 20 * PAGE)


def test_dirty_and_evicted(daemon: Daemon) -> None:
    write_file(daemon.root / "clean", 8 * PAGE)
    with (daemon.root / "dirty").open("wb") as file:
        file.write(os.urandom(8 * PAGE))
        file.flush()
        (report,) = show(daemon)["reports"]
    by_name = {Path(item["path"]).name: item for item in report["files"]}
    dirty = by_name["dirty"]
    assert dirty["dirty"] + dirty["writeback"] == 8 * PAGE
    assert report["method"] == "cachestat"
    path = daemon.root / "clean"
    make_resident(path, range(8))
    evict(path)
    (report,) = show(daemon, path=str(path))["reports"]
    assert report["total"]["resident"] == 0
    assert report["total"]["evicted"] >= report["total"]["recently_evicted"] >= 0


def test_a_root_that_is_not_there(start_daemon: Callable[..., Daemon], disk_dir: Path) -> None:
    roots = [disk_dir / "one", disk_dir / "two"]
    daemon = start_daemon(roots=roots)
    shutil.rmtree(roots[1])
    found = show(daemon)
    assert [report["root"] for report in found["reports"]] == [str(roots[0])]
    assert [each["root"] for each in found["unavailable"]] == [str(roots[1])]
    assert daemon.http.get("/readyz").status_code == 503
    roots[1].mkdir()
