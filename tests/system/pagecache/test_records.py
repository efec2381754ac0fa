"""Records from elsewhere: what is torn, damaged or hostile is refused, and leaves nothing."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import xxhash

from holdfast.operations.ids import new_id
from tests.oracles.records import (
    compress,
    encode,
    from_happycache,
    happycache,
    header,
    line,
    page_line,
)
from tests.oracles.residency import PAGE, evict, pinned, resident_pages
from tests.support.capabilities.pagecache import DUMPS, dump, load, upload
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file


def refused(daemon: Daemon, content: bytes) -> str:
    """Upload a record that must be refused; return why."""
    response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=content)
    assert response.status_code == 422, (response.status_code, response.text)
    problem = response.json()
    assert problem["type"] == "/problems/bad-record"
    assert str(daemon.state_dir) not in problem["detail"]
    detail: str = problem["detail"]
    return detail


def nothing_is_left(daemon: Daemon) -> None:
    assert list((daemon.state_dir / "dumps").iterdir()) == []
    assert daemon.http.get("/healthz").status_code == 200


def good() -> bytes:
    lines = [page_line(f"f{n}", 99 * PAGE, range(n, 99, n + 1)) for n in range(5)]
    return encode(header("/r"), lines)


def test_torn_at_any_length(daemon: Daemon) -> None:
    whole = good()
    for length in range(len(whole)):
        refused(daemon, whole[:length])
    nothing_is_left(daemon)
    upload(daemon, whole)


def test_flipped_bits(daemon: Daemon) -> None:
    whole = good()
    chance = random.Random(5)
    accepted = []
    for _ in range(150):
        changed = bytearray(whole)
        at = chance.randrange(len(changed))
        changed[at] ^= 1 << chance.randrange(8)
        response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=bytes(changed))
        if response.status_code == 201:
            accepted.append(response.json())
        else:
            assert response.status_code == 422, response.text
    # Some bits of a compressed frame mean nothing; then the content is what it was.
    pages = sum(len(range(n, 99, n + 1)) for n in range(5))
    assert all((each["files"], each["bytes"]) == (5, pages * PAGE) for each in accepted)
    assert len(accepted) < 15


def bad_lines() -> Iterable[tuple[str, str, dict[str, object]]]:
    for path in ("../x", "/etc/passwd", "a//b", "a/./b", "a/..", "", "x/", "a\0b"):
        yield f"path {path!r}", "not plain and relative", line(path, PAGE)
    yield "beyond", "beyond a file's end", line("a", PAGE, [0, 2])
    yield "far beyond", "beyond a file's end", line("a", PAGE, [1 << 63, 1 << 63])
    yield "no such size", "larger than files can be", line("a", 1 << 63, [0, 1])
    yield "too large", "malformed line", line("a", PAGE, [1 << 64, 1])
    yield "negative", "malformed line", line("a", PAGE, [-1, 1])
    yield "overlapping", "twice", line("a", PAGE, {"runs": [0, 1], "bits": [[0, "AQ"]]})
    yield "empty run", "empty run", line("a", PAGE, [0, 0, 0, 1])
    yield "no base64", "malformed path_b64", line("a", PAGE, path_b64="*")
    yield "no such root", "root that its header does not have", line("a", PAGE, root=1)
    yield "no tier", "no tier", {"path": "a", "size": 1, "mtime_ms": 0, "tiers": []}


@pytest.mark.parametrize(
    ("words", "entry"), [case[1:] for case in bad_lines()], ids=[case[0] for case in bad_lines()]
)
def test_lines_that_cannot_be(daemon: Daemon, words: str, entry: dict[str, object]) -> None:
    assert words in refused(daemon, encode(header(), [entry], bytes=PAGE))
    nothing_is_left(daemon)


def test_headers_and_trailers(daemon: Daemon) -> None:
    entry = line("a", PAGE)
    assert "update holdfast" in refused(daemon, encode(header(version=2), [entry]))
    assert "not a `holdfast" in refused(daemon, encode(header(format="x"), [entry]))
    for size in (0, 1, 4095, 5000, 1 << 40):
        assert "claims pages" in refused(daemon, encode(header(page_size=size), [], bytes=0))
    assert "no root" in refused(daemon, encode(header(roots=[]), []))
    assert "header" in refused(daemon, encode(header(roots=["r"] * 100), []))
    for wrong in ({"files": 2}, {"bytes": 2 * PAGE}):
        assert "trailer" in refused(daemon, encode(header(), [entry], **wrong))
    assert "digest" in refused(daemon, encode(header(), [entry], xxh64="0" * 16))
    refused(daemon, good() + good())
    refused(daemon, good() + b"\n")
    refused(daemon, b"")
    refused(daemon, b"holdfast")
    refused(daemon, compress(b""))
    nothing_is_left(daemon)
    upload(daemon, encode(header(mood={"a": 1}), [entry | {"colour": "blue"}]))


def high_water(daemon: Daemon) -> int:
    """Return the most memory that the daemon ever had, in bytes."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def test_bombs(daemon: Daemon) -> None:
    daemon.stop()
    daemon.rewrite_config(lambda text: f"max_record_bytes = {1 << 20}\n{text}")
    daemon.restart()
    upload(daemon, good())
    before = high_water(daemon)
    entry = json.dumps(line("a", PAGE)).encode() + b"\n"
    head = json.dumps(header()).encode() + b"\n"
    bombs = [
        compress(bytes(1 << 30)),
        compress(head + b" " * (64 << 20) + b"\n"),
        compress(head + entry * (1 << 20)),
        gzip.compress(bytes(256 << 20)),
        gzip.compress(b"./a\n0\n" + b"1\n" * (64 << 20), compresslevel=1),
    ]
    for bomb in bombs:
        if len(bomb) <= 1 << 20:
            refused(daemon, bomb)
    assert sum(len(bomb) <= 1 << 20 for bomb in bombs) >= 4
    assert high_water(daemon) - before < 64 << 20


def test_too_large_an_upload(daemon: Daemon) -> None:
    daemon.stop()
    daemon.rewrite_config(lambda text: f"max_record_bytes = {1 << 16}\n{text}")
    daemon.restart()
    content = os.urandom(1 << 17)
    for body in (content, iter([content[: 1 << 15]] * 4)):
        response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=body)
        assert response.status_code == 413, response.text
        assert response.json()["type"] == "/problems/too-large"
    nothing_is_left(daemon)


def test_a_stored_record_that_was_damaged(daemon: Daemon) -> None:
    write_file(daemon.root / "f", PAGE)
    first = daemon.run(DUMPS, {})["dump"]
    second = daemon.run(DUMPS, {})["dump"]
    path = daemon.state_dir / "dumps" / f"{second}.dump.zst"
    path.write_bytes(path.read_bytes()[:-3])
    listed = daemon.http.get(DUMPS).json()
    assert [each["id"] for each in listed["dumps"]] == [first]
    assert listed["dumps"][0]["latest"]
    assert [each["id"] for each in listed["damaged"]] == [second]
    assert daemon.http.post("/v1/pagecache/loads", json={"dump": second}).status_code == 422
    assert load(daemon)["dump"] == first


class TestHappycache:
    def test_import(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "db" / "f", 100 * PAGE)
        evict(path)
        wanted = {0, 1, 2, 50, 99}
        dump_id = upload(daemon, happycache({b"db/f": wanted, b"gone": {3}}))
        described = daemon.http.get(f"{DUMPS}/{dump_id}").json()
        assert (described["files"], described["bytes"]) == (2, 6 * PAGE)
        result = load(daemon, dump=dump_id)
        assert result["skipped"] == {"vanished": 1}
        assert resident_pages(path) >= wanted

    def test_export(self, daemon: Daemon) -> None:
        path = write_file(daemon.root / "f", 100 * PAGE)
        odd = daemon.root / "a\nb"
        odd.write_bytes(b"x")
        with pinned(path, range(0, 100, 3)) as wanted, pinned(odd):
            made, _ = dump(daemon)
        url = f"{DUMPS}/{made['dump']}/content"
        content = daemon.http.get(url, params={"format": "happycache"}).content
        assert from_happycache(content) == {b"f": wanted}

    def test_there_and_back(self, daemon: Daemon) -> None:
        stretch = 1 << 20
        pages = {
            b"a/large": {3, 4, stretch - 1, stretch, stretch + 9, 3 * stretch},
            b"b": set(range(0, 5000, 2)),
            b"c d": {0},
        }
        lines = [page_line(name.decode(), 1 << 44, some) for name, some in pages.items()]
        dump_id = upload(daemon, encode(header("/r"), lines))
        url = f"{DUMPS}/{dump_id}/content"
        content = daemon.http.get(url, params={"format": "happycache"}).content
        assert from_happycache(content) == pages
        again = upload(daemon, content)
        described = daemon.http.get(f"{DUMPS}/{again}").json()
        assert described["bytes"] == sum(map(len, pages.values())) * PAGE

    @pytest.mark.parametrize(
        "text",
        [b"0\n", b"./a\nx\n", b"./a\n1\n0\n", b"./../a\n0\n", b"/a\n0\n", b"./a\n1", b"./a\n-1\n"],
    )
    def test_what_is_none(self, daemon: Daemon, text: bytes) -> None:
        refused(daemon, gzip.compress(text))
        refused(daemon, gzip.compress(b"./a\n0\n" * 100)[:-9])
        nothing_is_left(daemon)


def test_the_judge_computes_the_published_digest() -> None:
    assert xxhash.xxh64_hexdigest(b"") == "ef46db3751d8e999"
