"""The page cache over HTTP: operations started, watched and ended, dumps moved about."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.operations.ids import new_id
from tests.support.daemon.contract import NOTHING, check_problem
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import drop, read_all, write_file

DUMPS, LOADS, EVICTIONS = (f"/v1/pagecache/{part}" for part in ("dumps", "loads", "evictions"))
SIZE = 4 << 20


@pytest.fixture
def tree(daemon: Daemon) -> Path:
    """Give a directory with a few resident files."""
    for number in range(4):
        read_all(write_file(daemon.root / "db" / f"f{number}", SIZE, seed=number))
    return daemon.root / "db"


def started(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    operation: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/operations/{operation['id']}"
    assert response.headers["retry-after"] == "1"
    return operation


def slow_load(daemon: Daemon, tree: Path) -> dict[str, Any]:
    """Start a load that takes far longer than a test."""
    daemon.run(DUMPS, {})
    for file in tree.iterdir():
        drop(file)
    return daemon.start(LOADS, {"bytes_per_second": 1 << 16})


def test_dump_evict_load(daemon: Daemon, tree: Path) -> None:
    http = daemon.http
    before = http.get("/v1/pagecache").json()["reports"][0]["total"]["resident"]
    assert before >= 4 * SIZE
    dump = daemon.finish(started(http.post(DUMPS)))["result"]
    assert dump["pages"] * dump["page_size"] == dump["bytes"] >= 4 * SIZE
    daemon.finish(started(http.post(EVICTIONS, json={"paths": [str(tree)]})))
    part = http.get("/v1/pagecache", params={"path": str(tree / "f0")}).json()["reports"][0]
    assert part["total"]["resident"] == 0
    loaded = daemon.finish(started(http.post(LOADS, json={"dump": dump["dump"]})))["result"]
    assert loaded["recall"] == 1
    assert loaded["loaded"] == 4 * SIZE


def test_a_running_operation_is_followed_and_cancelled(daemon: Daemon, tree: Path) -> None:
    operation = slow_load(daemon, tree)
    path = f"/v1/operations/{operation['id']}"
    states: list[str] = []
    with daemon.client().stream(
        "GET", f"{path}/events", headers={"Accept": "application/x-ndjson"}
    ) as response:
        for line in response.iter_lines():
            report = json.loads(line)
            states.append(report["state"])
            if states.count("running") == 2 and report["state"] == "running":
                cancelled = daemon.http.post(f"{path}/cancel", json={})
                assert cancelled.status_code == 202
                assert cancelled.headers["location"] == path
    assert states[-1] == "cancelled"
    assert states.count("cancelled") == 1
    again = daemon.http.post(f"{path}/cancel")
    assert (again.status_code, again.json()["state"]) == (202, "cancelled")
    found = daemon.http.get("/v1/operations", params={"kind": "pagecache.load"}).json()
    assert [listed["id"] for listed in found["operations"]] == [operation["id"]]
    found = daemon.http.get("/v1/operations", params={"state": "running"}).json()
    assert found["operations"] == []


def test_a_conflict_names_the_operation_that_runs(daemon: Daemon, tree: Path) -> None:
    operation = slow_load(daemon, tree)
    for path, body in ((LOADS, {}), (EVICTIONS, {"paths": [str(tree)]})):
        response = daemon.http.post(path, json=body)
        problem = check_problem(response, 409, "conflict")
        assert problem["operation"] == operation["id"]
        assert operation["id"] in problem["detail"]
        assert response.headers["location"] == f"/v1/operations/{operation['id']}"


class TestIdempotency:
    def test_the_same_request_is_done_once(self, daemon: Daemon, tree: Path) -> None:
        key = {"Idempotency-Key": "a-1"}
        first = daemon.finish(started(daemon.http.post(DUMPS, json={}, headers=key)))
        again = daemon.http.post(DUMPS, headers=key)
        assert again.status_code == 200
        assert again.json() == first
        assert again.headers["location"] == f"/v1/operations/{first['id']}"
        other = daemon.http.post(DUMPS, json={"on_denied": "skip"}, headers=key)
        problem = check_problem(other, 409, "idempotency-mismatch")
        assert problem["operation"] == first["id"]
        assert len(daemon.http.get(DUMPS).json()["dumps"]) == 1

    def test_also_when_it_could_not_be_done_again(self, daemon: Daemon, tree: Path) -> None:
        dump = daemon.run(DUMPS, {})["dump"]
        key = {"Idempotency-Key": "a-2"}
        first = daemon.finish(started(daemon.http.post(LOADS, json={"dump": dump}, headers=key)))
        assert daemon.http.delete(f"{DUMPS}/{dump}").status_code == 204
        again = daemon.http.post(LOADS, json={"dump": dump}, headers=key)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        fresh = daemon.http.post(LOADS, json={"dump": dump})
        check_problem(fresh, 404, "not-found")

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9", "a\tb"])
    def test_keys_that_are_none(self, shared_daemon: Daemon, key: str) -> None:
        response = shared_daemon.http.post(
            DUMPS, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
        )
        problem = check_problem(response, 422, "invalid-request")
        assert problem["errors"][0]["field"] == "Idempotency-Key"

    def test_two_keys(self, shared_daemon: Daemon) -> None:
        two = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        check_problem(shared_daemon.http.post(DUMPS, headers=two), 422, "invalid-request")


class TestPaths:
    @pytest.mark.parametrize("path", ["/", "/etc/passwd", "{root}/../x", "{root}/link/passwd"])
    def test_outside_the_roots(self, daemon: Daemon, path: str) -> None:
        (daemon.root / "link").symlink_to("/etc")
        named = path.format(root=daemon.root)
        problem = check_problem(
            daemon.http.post(EVICTIONS, json={"paths": [named]}), 422, "outside-roots"
        )
        assert problem["errors"][0]["field"] == "paths.0"
        for response in (
            daemon.http.get("/v1/pagecache", params={"path": named}),
            daemon.http.post(DUMPS, json={"path": named}),
        ):
            problem = check_problem(response, 422, "outside-roots")
            assert problem["errors"][0]["field"] == "path"

    def test_nul_and_nothing(self, daemon: Daemon) -> None:
        for name in (f"{daemon.root}/a\0b", f"{daemon.root}/absent"):
            response = daemon.http.get("/v1/pagecache", params={"path": name})
            assert response.status_code in (404, 422)
            check_problem(
                response, response.status_code, response.json()["type"].rpartition("/")[2]
            )

    def test_names_that_are_not_utf8(self, daemon: Daemon) -> None:
        name = b"caf\xe9\n\xff"
        write_file(daemon.root / name.decode("utf-8", "surrogateescape"), 8192)
        response = daemon.http.get("/v1/pagecache")
        assert response.status_code == 200
        (found,) = response.json()["reports"][0]["files"]
        assert found["path"].endswith("/caf\ufffd\n\ufffd")


class TestContent:
    @pytest.fixture
    def dump(self, daemon: Daemon, tree: Path) -> str:
        made: str = daemon.run(DUMPS, {})["dump"]
        return made

    def test_what_is_taken_can_be_brought(self, daemon: Daemon, dump: str) -> None:
        http = daemon.http
        response = http.get(f"{DUMPS}/{dump}/content")
        assert response.headers["content-type"] == "application/zstd"
        assert int(response.headers["content-length"]) == len(response.content)
        assert response.headers["content-disposition"] == f'attachment; filename="{dump}.zst"'
        stored = http.get(f"{DUMPS}/{dump}").json()
        assert stored["record_bytes"] == len(response.content)
        copy = new_id()
        put = http.put(f"{DUMPS}/{copy}/content", content=response.content)
        assert put.status_code == 201
        assert put.headers["location"] == f"{DUMPS}/{copy}"
        assert put.json() | {"id": dump, "uploaded": False, "latest": False} == stored | {
            "latest": False
        }
        assert http.get(f"{DUMPS}/{copy}/content").content == response.content
        assert [listed["id"] for listed in http.get(DUMPS).json()["dumps"]] == [copy, dump]

    def test_an_id_is_used_once(self, daemon: Daemon, dump: str) -> None:
        content = daemon.http.get(f"{DUMPS}/latest/content").content
        response = daemon.http.put(f"{DUMPS}/{dump}/content", content=content)
        assert response.status_code == 409, response.text
        assert daemon.http.get(f"{DUMPS}/{dump}").json()["uploaded"] is False
        for wrong in ("latest", "x", "..", "a%2Fb"):
            response = daemon.http.put(f"{DUMPS}/{wrong}/content", content=content)
            assert response.status_code in (404, 422), wrong

    def test_happycache(self, daemon: Daemon, dump: str) -> None:
        path = f"{DUMPS}/{dump}/content"
        asked = daemon.http.get(path, params={"format": "happycache"})
        assert asked.headers["content-type"] == "application/gzip"
        liked = daemon.http.get(path, headers={"Accept": "application/gzip"})
        assert gzip.decompress(asked.content) == gzip.decompress(liked.content)
        assert b"./db/f0" in gzip.decompress(liked.content)
        back = new_id()
        assert (
            daemon.http.put(
                f"{DUMPS}/{back}/content",
                content=liked.content,
                headers={"Content-Type": "application/gzip"},
            ).status_code
            == 201
        )
        both = [daemon.http.get(f"{DUMPS}/{record}").json() for record in (dump, back)]
        assert both[0]["files"] == both[1]["files"]
        assert both[0]["bytes"] == both[1]["bytes"]

    def test_representations(self, daemon: Daemon, dump: str) -> None:
        path = f"{DUMPS}/{dump}/content"
        plain = daemon.http.get(path, headers={"Accept": "application/octet-stream"})
        assert plain.headers["content-type"] == "application/octet-stream"
        check_problem(daemon.http.get(path, headers={"Accept": "text/html"}), 406, "not-acceptable")
        contradiction = daemon.http.get(
            path, params={"format": "native"}, headers={"Accept": "application/gzip"}
        )
        check_problem(contradiction, 406, "not-acceptable")
        check_problem(daemon.http.get(path, params={"format": "tar"}), 422, "invalid-request")

    @pytest.mark.parametrize("form", ["native", "happycache"])
    def test_tags(self, daemon: Daemon, dump: str, form: str) -> None:
        path = f"{DUMPS}/{dump}/content"
        first = daemon.http.get(path, params={"format": form})
        tag = first.headers["etag"]
        for condition in (tag, f'"x", {tag}', "*"):
            again = daemon.http.get(
                path, params={"format": form}, headers={"If-None-Match": condition}
            )
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        changed = daemon.http.get(path, params={"format": form}, headers={"If-None-Match": '"x"'})
        assert changed.status_code == 200

    @pytest.mark.parametrize(
        ("content", "status"), [(b"", 422), (b"nonsense", 422), (b"\x28\xb5\x2f\xfd\0\0", 422)]
    )
    def test_nonsense_is_refused(self, daemon: Daemon, content: bytes, status: int) -> None:
        response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=content)
        check_problem(response, status, "bad-record")
        assert daemon.http.get(DUMPS).json()["dumps"] == []

    def test_a_torn_record_is_refused(self, daemon: Daemon, dump: str) -> None:
        content = daemon.http.get(f"{DUMPS}/{dump}/content").content
        response = daemon.http.put(f"{DUMPS}/{new_id()}/content", content=content[:-20])
        check_problem(response, 422, "bad-record")
        assert len(daemon.http.get(DUMPS).json()["dumps"]) == 1

    def test_the_wrong_media_type(self, daemon: Daemon) -> None:
        response = daemon.http.put(
            f"{DUMPS}/{new_id()}/content", content=b"x", headers={"Content-Type": "text/plain"}
        )
        check_problem(response, 415, "unsupported-media-type")

    def test_deleting(self, daemon: Daemon, dump: str) -> None:
        response = daemon.http.delete(f"{DUMPS}/{dump}")
        assert (response.status_code, response.content) == (204, b"")
        for gone in (
            daemon.http.delete(f"{DUMPS}/{dump}"),
            daemon.http.get(f"{DUMPS}/{dump}"),
            daemon.http.get(f"{DUMPS}/latest"),
            daemon.http.get(f"{DUMPS}/{NOTHING}/content"),
        ):
            check_problem(gone, 404, "not-found")
