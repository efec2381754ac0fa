from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.api.http import streams
from holdfast.operations.model import Operation
from tests.support.daemon.api import WAIT_SECONDS, Served, served
from tests.support.daemon.operations import Params, Work, directed, kind_of
from tests.support.waiting import until


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def server(tmp_path: Path, work: Work) -> Iterator[Served]:
    with served(tmp_path, kind_of(work)) as running:
        yield running
        work.release_all()


@pytest.fixture
def operation(server: Served) -> Operation:
    return server.operations.start("test.work", Params(), actor="test")[0]


def test_server_sent_events(server: Served, work: Work, operation: Operation) -> None:
    context = work.wait_begun()
    events: list[dict[str, str]] = []
    with (
        server.http() as http,
        http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        current: dict[str, str] = {}
        for line in response.iter_lines():
            if not line:
                if "data" in current:
                    events.append(current)
                    if len(events) == 1:
                        work.release(context)
                current = {}
            else:
                name, _, value = line.partition(": ")
                current[name] = value
    assert events[0]["event"] == "state"
    assert events[-1]["event"] == "end"
    assert {event["event"] for event in events[1:-1]} <= {"progress"}
    numbers = [int(event["id"].partition(".")[0]) for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert events[-1]["id"].endswith(".succeeded")
    states = [json.loads(event["data"])["state"] for event in events]
    assert states[0] == "running"
    assert states[-1] == "succeeded"


def test_ndjson(server: Served, work: Work, operation: Operation) -> None:
    context = work.wait_begun()
    reports: list[dict[str, Any]] = []
    with (
        server.http(headers={"Accept": "application/x-ndjson"}) as http,
        http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
    ):
        assert response.headers["content-type"] == "application/x-ndjson"
        for line in response.iter_lines():
            reports.append(json.loads(line))
            if len(reports) == 1:
                work.release(context)
    assert reports[-1]["state"] == "succeeded"
    with server.http() as http:
        assert reports[-1] == http.get(f"/v1/operations/{operation.id}").json()


def test_a_line_for_a_person_each_second(server: Served, work: Work, operation: Operation) -> None:
    context = work.wait_begun()
    progress = directed(context)
    progress.phase, progress.bytes_done, progress.bytes_expected = "reading", 1 << 20, 4 << 20
    lines: list[str] = []
    with (
        server.http(headers={"Accept": "text/plain"}) as http,
        http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
    ):
        for line in response.iter_lines():
            lines.append(line)
            if len(lines) == 2:
                work.release(context)
    assert re.fullmatch(r"\d\d:\d\d:\d\d reading  1\.0 MiB / 4\.0 MiB  25 %.*", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d succeeded .*", lines[-1])


@pytest.mark.parametrize("media_type", streams.EVENT_TYPES)
def test_hanging_up_leaves_nothing_behind(
    server: Served, work: Work, operation: Operation, media_type: str
) -> None:
    work.wait_begun()
    with (
        server.http(headers={"Accept": media_type}) as http,
        http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
    ):
        chunks = response.iter_raw()  # hangs up when it is forgotten
        next(chunks)
        until(lambda: server.operations.listeners(operation.id) == 1, what="a listener")
    until(lambda: server.operations.listeners(operation.id) == 0, what="no listener")


def test_hanging_up_on_a_long_poll_leaves_nothing_behind(
    server: Served, work: Work, operation: Operation
) -> None:
    work.wait_begun()
    with server.http() as http, pytest.raises(httpx.ReadTimeout):
        http.get(f"/v1/operations/{operation.id}", params={"wait": 300}, timeout=0.3)
    until(lambda: server.operations.listeners(operation.id) == 0, what="no listener")


def test_a_long_poll_ends_with_the_operation(
    server: Served, work: Work, operation: Operation
) -> None:
    context = work.wait_begun()
    with server.http() as http:
        early = http.get(f"/v1/operations/{operation.id}", params={"wait": 0.05})
        assert early.json()["state"] == "running"
        assert early.headers["retry-after"] == "1"

        def release() -> None:
            until(lambda: server.operations.listeners(operation.id) == 1, what="the long poll")
            work.release(context)

        helper = threading.Thread(target=release)
        helper.start()
        late = http.get(f"/v1/operations/{operation.id}", params={"wait": WAIT_SECONDS})
        helper.join()
        assert late.json()["state"] == "succeeded"
        assert "retry-after" not in late.headers


def test_silence_is_filled(
    server: Served, work: Work, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    work.wait_begun()
    with (
        server.http() as http,
        http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
    ):
        assert any(line == ": still here" for line in response.iter_lines())


def test_head_answers_and_does_not_listen(server: Served, work: Work, operation: Operation) -> None:
    work.wait_begun()
    with server.http() as http:
        response = http.head(f"/v1/operations/{operation.id}/events")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.content == b""
        # The connection is good for another request.
        assert http.get("/healthz").status_code == 200
    until(lambda: server.operations.listeners(operation.id) == 0, what="no listener")


def test_who_saw_the_end_is_told_not_to_come_back(
    server: Served, work: Work, operation: Operation
) -> None:
    work.release(work.wait_begun())
    path = f"/v1/operations/{operation.id}/events"
    with server.http() as http:
        http.get(path)
        assert http.get(path, headers={"Last-Event-ID": "7.succeeded"}).status_code == 204
        assert http.get(path, headers={"Last-Event-ID": "7.running"}).status_code == 200


def test_stopping_ends_streams_and_long_polls(
    server: Served, work: Work, operation: Operation
) -> None:
    work.wait_begun()
    path = f"/v1/operations/{operation.id}"
    polled: list[httpx.Response] = []

    def poll() -> None:
        with server.http() as http:
            polled.append(http.get(path, params={"wait": 300}))

    poller = threading.Thread(target=poll)
    with server.http() as http, http.stream("GET", f"{path}/events") as response:
        chunks = response.iter_raw()
        next(chunks)
        poller.start()
        until(lambda: server.operations.listeners(operation.id) == 2, what="both listeners")
        server.stop()
        # The stream is ended as it should be: not broken off.
        assert b"end" not in b"".join(chunks)
    poller.join(WAIT_SECONDS)
    assert polled[0].json()["state"] == "running"
    assert not server.socket.exists()


def test_two_hundred_listeners(server: Served, work: Work, operation: Operation) -> None:
    context = work.wait_begun()
    ends: list[str] = []

    def listen() -> None:
        with (
            server.http(headers={"Accept": "application/x-ndjson"}) as http,
            http.stream("GET", f"/v1/operations/{operation.id}/events") as response,
        ):
            last = [json.loads(line) for line in response.iter_lines()][-1]
            ends.append(last["state"])

    threads = [threading.Thread(target=listen) for _ in range(200)]
    for thread in threads:
        thread.start()
    until(
        lambda: server.operations.listeners(operation.id) == 200,
        seconds=60,
        what="200 listeners",
    )
    with server.http() as http:
        assert http.get("/healthz").status_code == 200
    work.release(context)
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert ends == ["succeeded"] * 200
