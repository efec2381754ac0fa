"""Dumps: exactly the pages that are resident, of exactly the files that ought to be probed."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.oracles.residency import PAGE, evict, pinned
from tests.support.capabilities.pagecache import DUMPS, dump, failure, relative
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.disk import read_all, write_file
from tests.support.machine.mounts import tmpfs
from tests.support.waiting import until

PAGES = 2600  # more than a large folio, more than fits one small window


def patterns() -> dict[str, set[int]]:
    chance = random.Random(7)
    return {
        "alternate": set(range(0, PAGES, 2)),
        "random": {page for page in range(PAGES) if chance.random() < 0.25},
        "runs": {page for page in range(PAGES) if page // 9 % 3 == 0},
        "all": set(range(PAGES)),
        "all-but-one": set(range(PAGES)) - {1777},
        "first": {0},
        "last": {PAGES - 1},
        "none": set(),
    }


def test_the_pages_that_are_resident_are_recorded(daemon: Daemon) -> None:
    expected = {}
    with ExitStack() as stack:
        for name, pages in patterns().items():
            # The last page is not a whole one.
            path = write_file(daemon.root / name, PAGES * PAGE - 100)
            expected[relative(daemon, path)] = set(stack.enter_context(pinned(path, pages)))
        for size in (1, PAGE, 5 * PAGE, 40 * PAGE):
            path = write_file(daemon.root / f"small-{size}", size)
            wanted = set(range(0, -(-size // PAGE), 3))
            expected[relative(daemon, path)] = set(stack.enter_context(pinned(path, wanted)))
        result, record = dump(daemon)
    del expected[b"none"]
    assert record.pages == expected
    assert result["files"] == len(expected)
    assert result["files_scanned"] == len(expected) + 1
    assert result["pages"] == sum(map(len, expected.values()))
    assert record.header["roots"] == [str(daemon.root)]


def test_a_file_of_several_parts(daemon: Daemon) -> None:
    path = daemon.root / "sparse"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    wanted = {0, 5, (1 << 18) - 1, 1 << 18, (2 << 18) + 77, (3 << 18) - 1}
    with pinned(path, wanted):
        result, record = dump(daemon)
    assert record.pages == {b"sparse": wanted}
    assert result["files"] == 1
    assert len(record.lines) == 3


def test_names_that_are_hard_to_write(daemon: Daemon) -> None:
    names = [b"new\nline", b'quote"back\\slash', b"caf\xe9\xff", "käse 🧀".encode(), b" ", b"-n"]
    deep = b"/".join([b"d" * 200] * 12)
    (daemon.root / os.fsdecode(deep)).mkdir(parents=True)
    names.append(deep + b"/file")
    with ExitStack() as stack:
        for name in names:
            path = daemon.root / os.fsdecode(name)
            path.write_bytes(b"x")
            stack.enter_context(pinned(path))
        _, record = dump(daemon)
    assert record.pages == {name: {0} for name in names}


def test_what_is_not_looked_at(daemon: Daemon, tmp_path: Path) -> None:
    root = daemon.root
    outside = write_file(tmp_path / "outside", PAGE)
    target = write_file(root / "target", PAGE)
    os.link(target, root / "another-name")
    (root / "link").symlink_to(target)
    (root / "dir-link").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o600 | 0o060000, os.makedev(7, 250))
    (root / "empty").write_bytes(b"")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(root / "sock"))
        other = stack.enter_context(tmpfs(root / "other", 1 << 20))
        (other / "there").write_bytes(b"x")
        stack.enter_context(pinned(target))
        stack.enter_context(pinned(outside))
        result, record = dump(daemon)
    assert set(record.pages) <= {b"target", b"another-name"}
    assert len(record.pages) == 1
    expected = {"symlink": 2, "special": 3, "hardlink": 1, "other_filesystem": 1}
    assert result["skipped"] == expected
    assert {example["reason"] for example in result["examples"]} == set(expected)


def test_the_state_dir_is_left_out(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(state_dir=None)
    read_all(write_file(daemon.root / "data", PAGE))
    _, record = dump(daemon)
    assert not any(path.startswith(b".holdfast") for path in record.pages)
    assert (daemon.root / ".holdfast" / "dumps").is_dir()


def test_a_part_of_a_root(daemon: Daemon) -> None:
    inner = write_file(daemon.root / "a" / "b" / "f", PAGE)
    write_file(daemon.root / "a" / "g", PAGE)
    for path in (inner, inner.parent):
        with pinned(inner):
            _, record = dump(daemon, path=str(path))
        assert record.pages == {b"a/b/f": {0}}


def test_files_that_change_meanwhile(daemon: Daemon) -> None:
    steady = write_file(daemon.root / "steady", 64 * PAGE)
    stop = threading.Event()

    def churn(number: int) -> None:
        chance = random.Random(number)
        path = daemon.root / f"churn-{number}"
        while not stop.is_set():
            path.write_bytes(bytes(chance.randrange(200 * PAGE)))
            with path.open("r+b") as file:
                file.truncate(chance.randrange(100 * PAGE))
            path.unlink()

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    with pinned(steady) as pages:
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                _, record = dump(daemon)
                assert record.pages[b"steady"] == pages
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_residency_that_the_kernel_does_not_tell(daemon: Daemon, disk_dir: Path) -> None:
    path = write_file(daemon.root / "not-ours", 4 * PAGE)
    path.chmod(0o644)
    state = disk_dir / "state-of-nobody"
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    daemon.root.parent.chmod(0o755)
    for parent in (daemon.root, *disk_dir.parents, disk_dir):
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    local = ["--local", "--root", str(daemon.root), "--state-dir", str(state), "--json"]

    def run(*options: str) -> tuple[int, str, str]:
        done = run_cli("pagecache", "dump", *local, *options, wrapper=as_nobody)
        return done.returncode, done.stdout, done.stderr

    code, _, words = run()
    assert code == 1
    assert "CAP_FOWNER" in words
    assert str(path) in words
    assert list((state / "dumps").iterdir()) == []
    code, out, words = run("--on-denied", "skip")
    assert code == 0, words
    assert '"not_permitted": 1' in out


def test_hotness_is_accepted_and_has_no_effect(daemon: Daemon) -> None:
    path = write_file(daemon.root / "f", 64 * PAGE)
    pages = set(range(0, 64, 3))
    with pinned(path, pages):
        result, record = dump(daemon, hotness=True)
    assert record.pages == {b"f": pages}
    assert len(record.tiers[b"f"]) == 1
    assert (result["hotness"], record.header["hotness"]) == (False, False)
    schema = daemon.http.get("/openapi.json").json()["components"]["schemas"]
    assert schema["DumpRequest"]["properties"]["hotness"]["deprecated"] is True
    done = daemon.cli("pagecache", "dump", "--hotness")
    assert done.returncode == 0, done.stderr
    assert "--hotness has no effect" in done.stderr


def test_so_many_are_kept(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(pagecache={"dumps_kept": 2})
    write_file(daemon.root / "f", PAGE)
    made = [daemon.run(DUMPS, {})["dump"] for _ in range(4)]
    listed = daemon.http.get(DUMPS).json()["dumps"]
    assert [(each["id"], each["latest"]) for each in listed] == [(made[3], True), (made[2], False)]
    assert daemon.http.get(f"{DUMPS}/latest").json()["id"] == made[3]


def test_no_room_for_the_record(daemon: Daemon) -> None:
    for _ in range(600):
        (daemon.root / os.urandom(16).hex()).write_bytes(b"x")
    with tmpfs(daemon.state_dir / "dumps", 2 * PAGE) as dumps:
        error = failure(daemon, DUMPS, {})
        assert error["type"] == "/problems/no-space", error
        assert list(dumps.iterdir()) == []
    assert daemon.run(DUMPS, {})["files"] > 0


def test_no_room_for_the_record_of_operations(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    with tmpfs(disk_dir / "tiny", 512 << 10) as place:
        state = place / "state"
        state.mkdir(mode=0o700)
        daemon = start_daemon(state_dir=str(state))
        filler = place / "filler"
        filler.write_bytes(bytes(place_free(place)))
        response = daemon.http.post(DUMPS, json={})
        assert response.status_code == 507
        assert response.json()["type"] == "/problems/no-space"
        filler.unlink()
        daemon.run(DUMPS, {})
        daemon.stop()


def place_free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


@pytest.mark.slow
def test_cancelled_or_killed_it_leaves_nothing(daemon: Daemon) -> None:
    many = daemon.root / "many"
    many.mkdir()
    for number in range(60_000):
        (many / f"{number}").write_bytes(b"x")
    dumps = daemon.state_dir / "dumps"

    def began() -> bool:
        return any(dumps.glob(".*.partial"))

    operation = daemon.start(DUMPS, {})
    until(began, seconds=10, what="the temporary file")
    daemon.http.post(f"/v1/operations/{operation['id']}/cancel")
    assert daemon.finish(operation)["state"] == "cancelled"
    assert list(dumps.iterdir()) == []

    operation = daemon.start(DUMPS, {})
    until(began, seconds=10, what="the temporary file")
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    assert began()
    daemon.restart()
    assert list(dumps.iterdir()) == []
    assert daemon.finish(operation)["state"] == "interrupted"
    assert daemon.http.get(DUMPS).json() == {"dumps": [], "damaged": []}


def test_an_eviction_of_the_test_itself(daemon: Daemon) -> None:
    """A test of the judge: pages that are not resident are not recorded."""
    path = write_file(daemon.root / "f", 10 * PAGE)
    evict(path)
    result, record = dump(daemon)
    assert record.pages == {}
    assert result["bytes"] == 0
