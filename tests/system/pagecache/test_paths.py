"""Paths that clients name: what is not theirs to name is refused before anything is started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oracles.records import encode, header, line
from tests.oracles.residency import PAGE, evict, resident_pages
from tests.support.capabilities.pagecache import DUMPS, EVICTIONS, SHOW, load, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.machine.mounts import ext4, mounted, tmpfs


def refused(daemon: Daemon, path: str) -> set[str]:
    """Name a path wherever one can be named; return the kinds of problem, one for all."""
    before = daemon.http.get("/v1/operations").json()
    slugs = set()
    for field, response in (
        ("path", daemon.http.get(SHOW, params={"path": path})),
        ("path", daemon.http.post(DUMPS, json={"path": path})),
        ("paths.0", daemon.http.post(EVICTIONS, json={"paths": [path]})),
    ):
        assert 400 <= response.status_code < 500, response.text
        problem = response.json()
        assert [each["field"] for each in problem["errors"]] == [field]
        assert problem["detail"].endswith((".", ".'"))
        slugs.add(problem["type"].removeprefix("/problems/"))
    assert daemon.http.get("/v1/operations").json() == before
    return slugs


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        ("{root}/d/../d/f", "outside-roots"),
        ("{root}/..", "outside-roots"),
        ("{root}x/f", "outside-roots"),
        ("/", "outside-roots"),
        ("d/f", "outside-roots"),
        ("{root}/dir-link/f", "outside-roots"),
        ("{root}/dir-link", "outside-roots"),
        ("{root}/file-link", "outside-roots"),
        ("{root}/loop", "invalid-request"),
        ("{root}/a\0b", "invalid-request"),
        ("{root}/{long}", "invalid-request"),
        ("{root}/{deep}", "invalid-request"),
        ("{root}/fifo", "invalid-request"),
        ("{root}/d/f/g", "invalid-request"),
        ("{root}/absent", "not-found"),
        ("", "invalid-request"),
    ],
)
def test_refused(shared_daemon: Daemon, path: str, slug: str) -> None:
    root = shared_daemon.root
    if not (root / "d").exists():
        write_file(root / "d" / "f", PAGE)
        (root / "dir-link").symlink_to(root / "d")
        (root / "file-link").symlink_to(root / "d" / "f")
        (root / "loop").symlink_to(root / "loop")
        os.mkfifo(root / "fifo")
    named = path.format(root=root, long="n" * 300, deep=("d" * 200 + "/") * 21)
    assert refused(shared_daemon, named) == {slug}


def test_other_ways_to_write_the_same(shared_daemon: Daemon) -> None:
    path = write_file(shared_daemon.root / "e" / "f", PAGE)
    for named in (f"{path.parent}//f", f"{path.parent}/./f", f"{path}/"):
        response = shared_daemon.http.get(SHOW, params={"path": named})
        assert response.json()["reports"][0]["total"]["path"] == str(path)


class TestMountedInside:
    @pytest.fixture(params=["tmpfs", "ext4", "bind"])
    def place(
        self, daemon: Daemon, disk_dir: Path, request: pytest.FixtureRequest
    ) -> Iterator[Path]:
        here = daemon.root / "mounted"
        if request.param == "tmpfs":
            mount = tmpfs(here, 1 << 20)
        elif request.param == "ext4":
            mount = ext4(here, 8 << 20)
        else:
            source = disk_dir / "elsewhere"
            source.mkdir()
            mount = mounted(here, "--bind", source)
        with mount as found:
            yield found

    def test_it_is_left_out(self, daemon: Daemon, place: Path) -> None:
        write_file(daemon.root / "own", PAGE)
        there = write_file(place / "there", 4 * PAGE)
        held = resident_pages(there)
        (report,) = daemon.http.get(SHOW).json()["reports"]
        assert report["skipped"] == {"other_filesystem": 1}
        assert "there" not in {Path(each["path"]).name for each in report["files"]}
        result = daemon.run(EVICTIONS, {"paths": [str(daemon.root)]})
        assert result["skipped"] == {"other_filesystem": 1}
        assert held <= resident_pages(there)
        dump_id = upload(daemon, encode(header(daemon.root), [line("mounted/there", 4 * PAGE)]))
        assert load(daemon, dump=dump_id)["skipped"] == {"other_filesystem": 1}

    def test_it_cannot_be_named(self, daemon: Daemon, place: Path) -> None:
        (place / "there").write_bytes(b"x")
        for named in (place, place / "there"):
            response = daemon.http.get(SHOW, params={"path": str(named)})
            assert response.status_code == 422, response.text
            assert response.json()["type"] == "/problems/outside-roots"


def test_the_state_directory_is_left_out_in_silence_also_as_a_mount(
    start_daemon: Callable[..., Daemon],
) -> None:
    # As systemd's ReadWritePaths= makes one of it.
    daemon = start_daemon(state_dir=None)
    write_file(daemon.root / "own", PAGE)
    with mounted(daemon.state_dir, "--bind", daemon.state_dir):
        assert daemon.run(DUMPS, {})["skipped"] == {}
        (report,) = daemon.http.get(SHOW).json()["reports"]
        assert (report["skipped"], report["total"]["files"]) == ({}, 1)


def test_a_root_without_a_page_cache_of_its_own(daemon: Daemon, disk_dir: Path) -> None:
    with tmpfs(disk_dir / "memory", 1 << 20) as root:
        daemon.stop()
        daemon.rewrite_config(lambda text: text.replace(str(daemon.root), str(root)))
        daemon.restart()
        (root / "f").write_bytes(b"x")
        found = daemon.http.get(SHOW).json()
        assert [each["root"] for each in found["unavailable"]] == [str(root)]
        assert "tmpfs" in found["unavailable"][0]["detail"]
        response = daemon.http.get(SHOW, params={"path": str(root)})
        assert response.status_code == 422, response.text
        error = daemon.finish(daemon.start(DUMPS, {}))["error"]
        assert "tmpfs" in error["detail"]
        daemon.stop()


@pytest.mark.slow
def test_directories_that_become_links_meanwhile(daemon: Daemon, disk_dir: Path) -> None:
    """A race that a user with a shell on the node could stage, again and again."""
    secret = write_file(disk_dir / "secret" / "f", 16 * PAGE)
    evict(secret)
    inside = write_file(daemon.root / "swapped" / "f", 16 * PAGE).parent
    link = daemon.root / "link"
    link.symlink_to(secret.parent)
    dump_id = upload(daemon, encode(header(daemon.root), [line("swapped/f", 16 * PAGE)]))
    stop = threading.Event()

    def swap() -> None:
        aside = daemon.root / "aside"
        while not stop.is_set():
            for one, other in ((inside, aside), (link, inside), (inside, link), (aside, inside)):
                one.rename(other)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(100):
            result = load(daemon, dump=dump_id)
            outcomes |= set(result["skipped"]) or {"loaded"}
            daemon.run(EVICTIONS, {"paths": [str(daemon.root)]})
    finally:
        stop.set()
        thread.join()
    # The race took place, and let nothing in.
    assert {"symlink", "loaded"} <= outcomes
    assert not resident_pages(secret)
