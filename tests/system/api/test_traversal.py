"""Names in addresses and bodies lead nowhere but where they are meant to."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oracles.residency import PAGE, evict, resident_pages
from tests.support.capabilities.pagecache import DUMPS, dump
from tests.support.daemon.contract import PROBLEM, operations_of
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file

HOSTILE = (
    "..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2ftokens.json", "..%5c..%5cetc",
    "%252e%252e%252f", "%00", "latest%00", "a%00.zst", "%2fetc%2fpasswd", "a%2fb", "latest%2f..",
    "%0a", "a%0d%0aX-Set:%201", "%ff%fe", "%c0%ae%c0%ae%c0%af", "~", "*", "%3f", "-", "%20",
    "01JDZZZZZZZZZZZZZZZZZZZZZZ%2f..%2f..%2faudit.log", "audit.log", "x" * 64, "x" * 65,
    "x" * 5000, "%f0%9f%92%a3" * 16, "01jdzzzzzzzzzzzzzzzzzzzzzz",
)  # fmt: skip


def raw(daemon: Daemon, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request with an unchanged target: clients of HTTP would normalise it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(daemon.socket))
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def snapshot(daemon: Daemon) -> dict[str, bytes]:
    """Return every file of the daemon's state, but the log of who called."""
    files = (path for path in daemon.state_dir.rglob("*") if path.is_file())
    return {
        str(file): file.read_bytes()
        for file in files
        if file.name not in {"audit.log", "audit-admin.log"}
    }


def test_ids_that_are_paths(shared_daemon: Daemon) -> None:
    """Each route with a part that the client chooses, whatever it is called."""
    daemon = shared_daemon
    before = snapshot(daemon)
    document = daemon.http.get("/openapi.json").json()
    routes = [(path, method) for path, method, _ in operations_of(document) if "{" in path]
    assert len(routes) >= 14
    for path, method in routes:
        for hostile in HOSTILE:
            status, headers, body = raw(daemon, method, re.sub(r"{\w+}", hostile, path))
            where = f"{method} {path} with {hostile[:80]}: {status} {body[:300]!r}"
            assert 400 <= status < 500, where
            assert headers["content-type"] == PROBLEM, where
            assert "x-set" not in headers, where
            problem = json.loads(body)
            assert len(problem["detail"]) < 600, where
            assert "root:" not in problem["detail"], where
            assert str(daemon.state_dir) not in body.decode(), where
    assert snapshot(daemon) == before
    lines = (daemon.state_dir / "audit.log").read_bytes().splitlines()
    assert all(json.loads(line)["status"] >= 400 for line in lines)


def test_bodies_that_name_records_by_path(daemon: Daemon) -> None:
    before = snapshot(daemon)
    for hostile in ("../tokens.json", "/etc/passwd", "..", "\0", "a\nb", "latest/../x", "é" * 64):
        for path, body in (
            ("/v1/pagecache/loads", {"dump": hostile}),
            ("/v1/manifests/comparisons", {"left": hostile, "right": hostile}),
            ("/v1/tuning/plan", {"profile": hostile}),
            ("/v1/tuning/apply", {"profile": hostile}),
        ):
            answer = daemon.http.post(path, json=body)
            assert answer.status_code in (404, 422), (path, hostile, answer.text)
            assert answer.headers["content-type"] == PROBLEM
    assert snapshot(daemon) == before


@contextmanager
def swapping(inside: Path, link: Path) -> Iterator[None]:
    """Put a link in the place of a directory and take it away again, as fast as it goes."""
    aside = inside.with_name("aside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, other in ((inside, aside), (link, inside), (inside, link), (aside, inside)):
                one.rename(other)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_dump_of_a_directory_that_becomes_a_link(daemon: Daemon, disk_dir: Path) -> None:
    """What lies outside is resident and of another size: its pages would show in the record."""
    outside = write_file(disk_dir / "secret" / "f", 32 * PAGE)
    write_file(outside.parent / "only-outside", 8 * PAGE)
    inside = write_file(daemon.root / "swapped" / "f", 4 * PAGE).parent
    link = daemon.root / "link"
    link.symlink_to(outside.parent)
    assert len(resident_pages(outside)) == 32
    seen = set()
    with swapping(inside, link):
        for number in range(80):
            # The directory as part of the tree, and by its name.
            if number % 2:
                body = {"path": str(inside)}
                answer = daemon.http.post(DUMPS, json=body)
                if answer.status_code != 202:
                    assert answer.status_code in (404, 422), answer.text
                    continue
                made = daemon.finish(answer.json())
                if made["state"] != "succeeded":
                    slug = made["error"]["type"].rpartition("/")[2]
                    assert slug in ("outside-roots", "not-found", "io-error"), made
                    continue
                content = daemon.http.get(f"{DUMPS}/latest/content").content
                assert b"only-outside" not in content
                assert made["result"]["bytes"] <= 4 * PAGE
                continue
            result, record = dump(daemon)
            names = set(record.pages)
            seen |= names | set(result["skipped"])
            assert all(name.endswith(b"/f") for name in names), names
            assert all(max(pages) < 4 for pages in record.pages.values())
    # The race took place.
    assert {b"swapped/f", "symlink"} <= seen, seen


@pytest.mark.slow
def test_a_look_and_an_eviction_of_such_a_directory(daemon: Daemon, disk_dir: Path) -> None:
    outside = write_file(disk_dir / "secret" / "f", 32 * PAGE)
    inside = write_file(daemon.root / "swapped" / "f", 4 * PAGE).parent
    link = daemon.root / "link"
    link.symlink_to(outside.parent)
    resident = resident_pages(outside)
    statuses = set()
    with swapping(inside, link):
        for _ in range(80):
            for path in (inside, inside / "f"):
                shown = daemon.http.get("/v1/pagecache", params={"path": str(path)})
                statuses.add(shown.status_code)
                if shown.status_code == 200:
                    for report in shown.json()["reports"]:
                        assert report["total"]["bytes"] <= 4 * PAGE
                else:
                    assert shown.status_code in (404, 422), shown.text
                answer = daemon.http.post("/v1/pagecache/evictions", json={"paths": [str(path)]})
                if answer.status_code == 202:
                    daemon.finish(answer.json())
    assert statuses > {200}, statuses
    assert resident_pages(outside) == resident
    evict(outside)
