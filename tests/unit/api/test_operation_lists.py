"""Lists of operations: small whatever their results are, and whole by their cursors."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import State
from tests.support.daemon.api import Served, served
from tests.support.daemon.operations import Params, kind_of
from tests.support.waiting import until

MIB = 1 << 20
KIND = "test.work"
LINES = 9000
"""Lines of a report of more than 1 MiB."""


class Large(BaseModel):
    name: str
    reported: list[dict[str, Any]]


def report(context: Context[Params]) -> Any:
    """Return a result of as many megabytes as were asked for."""
    lines = context.params.size * LINES
    files = [
        {"path": f"/mnt/data/ü/{number:06}\udc80", "loaded": number, "detail": "x" * 64}
        for number in range(lines)
    ]
    return Large(name=context.params.name, reported=files)


def large_kind() -> Any:
    return replace(cast(Kind[Any, Any], kind_of(report)), result=Large)


def finished(server: Served, count: int, size: int) -> list[str]:
    """Run operations with large results, one after the other; return their ids."""
    ids = []
    for number in range(count):
        params = Params(name=str(number), size=size)
        operation, _ = server.operations.start(KIND, params, actor="tester")
        ids.append(operation.id)
        until(lambda: server.operations.get(ids[-1]).state.final, what="its end")
    return ids


def test_a_list_has_no_results_and_one_operation_has_all_of_its(tmp_path: Path) -> None:
    with served(tmp_path, large_kind()) as server, server.http() as client:
        ids = finished(server, 3, 1)
        answer = client.get("/v1/operations", params={"limit": 1000})
        assert len(answer.content) < 10_000
        listed = answer.json()
        assert [operation["id"] for operation in listed["operations"]] == ids[::-1]
        assert all("result" not in operation for operation in listed["operations"])
        assert listed["next"] is None

        for name in (ids[1], ids[1].lower()[:-1], ids[1][:-1]):
            whole = client.get(f"/v1/operations/{name}")
            assert whole.status_code == 200
            assert int(whole.headers["Content-Length"]) == len(whole.content) > MIB
            page = whole.json()
            assert (page["id"], page["state"], page["error"]) == (ids[1], "succeeded", None)
            assert len(page["result"]["reported"]) == LINES
            assert page["result"]["reported"][7]["path"] == "/mnt/data/ü/000007\ufffd"
        assert client.get("/v1/operations/latest").json()["id"] == ids[-1]
        events = client.get(f"/v1/operations/{ids[0]}/events").text
        data = events.partition("data: ")[2]
        assert len(json.loads(data)["result"]["reported"]) == LINES
        assert (tmp_path / "state" / "operations.sqlite3").stat().st_size < MIB


def test_a_large_result_is_streamed_and_not_held_in_memory(tmp_path: Path) -> None:
    with served(tmp_path, large_kind()) as server, server.http() as client:
        (operation_id,) = finished(server, 1, 24)
        tracemalloc.start()
        try:
            with client.stream("GET", f"/v1/operations/{operation_id}") as response:
                received = sum(len(chunk) for chunk in response.iter_bytes(64 << 10))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert received > 24 * MIB
        assert peak < 8 * MIB


def test_a_cursor_continues_the_list_whatever_began_since(tmp_path: Path) -> None:
    with served(tmp_path, large_kind()) as server, server.http() as client:
        ids = finished(server, 7, 0)
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 3, "kind": KIND}
        while True:
            part = client.get("/v1/operations", params=query).json()
            seen += [operation["id"] for operation in part["operations"]]
            finished(server, 1, 0)
            if part["next"] is None:
                break
            query["cursor"] = part["next"]
        assert seen == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "MTI=MTI", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OQ", "é"])
def test_a_cursor_that_is_none_is_refused(tmp_path: Path, cursor: str) -> None:
    with served(tmp_path) as server, server.http() as client:
        refused = client.get("/v1/operations", params={"cursor": cursor})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "cursor"


def test_an_id_may_be_cut_short_while_no_other_begins_so(tmp_path: Path) -> None:
    with served(tmp_path, large_kind()) as server, server.http() as client:
        assert client.get("/v1/operations/latest").status_code == 404
        ids = finished(server, 2, 0)
        shared = next(n for n in range(26) if ids[0][n] != ids[1][n])
        assert client.get(f"/v1/operations/{ids[0][: shared + 1]}").json()["id"] == ids[0]
        several = client.get(f"/v1/operations/{ids[0][:shared]}")
        assert several.status_code == 409
        assert "write more" in several.json()["detail"]
        assert client.get(f"/v1/operations/{ids[0][:3]}").status_code == 404
        assert client.get("/v1/operations/ZZZZ").status_code == 404


def test_a_list_is_narrowed_by_time(tmp_path: Path) -> None:
    with served(tmp_path, large_kind()) as server, server.http() as client:
        finished(server, 1, 0)
        for since, count in (("2020-01-01T00:00:00Z", 1), ("2120-01-01T00:00:00+01:00", 0)):
            listed = client.get("/v1/operations", params={"since": since}).json()["operations"]
            assert len(listed) == count
        for since in ("yesterday", "0.5", "2026-11-23", "2026-11-23T01:02:03"):
            assert client.get("/v1/operations", params={"since": since}).status_code == 422
        assert server.operations.list(state=State.SUCCEEDED)
