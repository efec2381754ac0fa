"""Operations when the daemon is stopped or killed, or left alone by clients."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import socket
import sqlite3
import sys
import termios
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import pytest

from tests.support.capabilities.slow_loads import (
    SIZE,
    SLOW,
    operation_of,
    prepare_load,
    start_slow_load,
)
from tests.support.daemon.harness import Daemon
from tests.support.promptness import promptly
from tests.support.waiting import until

Starter = Callable[..., Daemon]


def rows(daemon: Daemon) -> dict[str, str]:
    """The states in the record of a daemon that does not run, by id."""
    assert daemon.process.poll() is not None
    connection = sqlite3.connect(daemon.state_dir / "operations.sqlite3")
    try:
        return dict(connection.execute("SELECT id, state FROM operations"))
    finally:
        connection.close()


def assert_complete(operation: Mapping[str, Any]) -> None:
    assert operation["state"] == "succeeded", operation
    assert operation["error"] is None
    result = operation["result"]
    assert result["missing"] == 0
    assert result["loaded"] + result["already_resident"] == result["requested"] == SIZE


def test_sigterm_cancels_and_records_running_work_within_five_seconds(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    with promptly(5):
        assert daemon.stop() == 0
    state = rows(daemon)[load["id"]]
    # Put off to the next start if its kind can resume, else ended; but never left as running.
    assert state in {"queued", "interrupted"}
    daemon.restart()
    again = daemon.finish(load)
    if state == "queued":
        assert_complete(again)
        assert again["created_at"] == load["created_at"]
    else:
        assert again["state"] == "interrupted"
        assert again["error"]["type"] == "/problems/interrupted"


def test_sigint_stops_it_just_as_well(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(5) == 0


def test_sighup_does_not_stop_it(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "nothing to reload" in daemon.log, what="the answer to SIGHUP")
    assert daemon.http.get("/healthz").status_code == 200


def test_after_sigkill_a_load_goes_on_and_completes(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    daemon.kill()
    assert rows(daemon)[load["id"]] == "running"
    daemon.restart()
    now = operation_of(daemon, load["id"])
    assert now["state"] in {"queued", "running", "succeeded"}
    assert now["started_at"] == operation_of(daemon, load["id"])["started_at"] is not None
    again = daemon.finish(load)
    assert_complete(again)
    assert again["progress"]["bytes_done"] == again["progress"]["bytes_expected"]


def test_waiting_operations_survive_both_ends_of_the_daemon(start_daemon: Starter) -> None:
    daemon = start_daemon(operations={"max_running": 1})
    prepare_load(daemon)
    load = start_slow_load(daemon)
    dump = daemon.start("/v1/pagecache/dumps", {})
    assert dump["state"] == "queued"
    daemon.kill()
    assert rows(daemon)[dump["id"]] == "queued"
    daemon.restart()
    assert operation_of(daemon, dump["id"])["state"] == "queued"
    assert daemon.stop() == 0
    assert rows(daemon)[dump["id"]] == "queued"
    daemon.restart()
    assert_complete(daemon.finish(load))
    assert daemon.finish(dump)["state"] == "succeeded"


def test_an_idempotency_key_outlives_a_kill(daemon: Daemon) -> None:
    prepare_load(daemon)
    body = {"bytes_per_second": SLOW}
    key = {"Idempotency-Key": "load-once"}
    first = daemon.start("/v1/pagecache/loads", body, **key)
    daemon.kill()
    daemon.restart()
    response = daemon.http.post("/v1/pagecache/loads", json=body, headers=key)
    assert response.status_code in {200, 202}
    assert response.json()["id"] == first["id"]
    other = daemon.http.post("/v1/pagecache/loads", json={}, headers=key)
    assert other.status_code == 409
    assert other.json()["type"] == "/problems/idempotency-mismatch"
    assert other.json()["operation"] == first["id"]
    daemon.http.post(f"/v1/operations/{first['id']}/cancel")
    assert len(daemon.http.get("/v1/operations?kind=pagecache.load").json()["operations"]) == 1


def test_a_running_load_is_cancelled_within_a_second(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    with promptly(1):
        response = daemon.http.post(f"/v1/operations/{load['id']}/cancel")
        assert response.status_code == 202
        ended = daemon.http.get(f"/v1/operations/{load['id']}?wait=5").json()
    assert ended["state"] == "cancelled"
    assert ended["error"]["type"] == "/problems/cancelled"
    again = daemon.http.post(f"/v1/operations/{load['id']}/cancel")
    assert again.status_code == 202
    assert again.json() == ended


def test_a_second_load_conflicts_with_the_first_and_names_it(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    response = daemon.http.post("/v1/pagecache/loads", json={})
    assert response.status_code == 409
    problem = response.json()
    assert problem["type"] == "/problems/conflict"
    assert load["id"] in problem["detail"]
    daemon.http.post(f"/v1/operations/{load['id']}/cancel")


def test_progress_never_goes_back_or_beyond_what_is_expected(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = daemon.start("/v1/pagecache/loads", {"bytes_per_second": SLOW})
    reports = []
    with daemon.http.stream(
        "GET", f"/v1/operations/{load['id']}/events", headers={"Accept": "application/x-ndjson"}
    ) as stream:
        reports = [json.loads(line) for line in stream.iter_lines() if line]
    assert reports[-1]["state"] == "succeeded"
    assert len(reports) >= 3
    for report in reports:
        progress = report["progress"]
        for unit in ("bytes", "files"):
            if progress[f"{unit}_expected"] is not None:
                assert progress[f"{unit}_done"] <= progress[f"{unit}_expected"]
    # What was read is reported while the rest is still being read.
    done = [report["progress"]["bytes_done"] for report in reports]
    assert done == sorted(done)
    assert any(0 < bytes_done < SIZE for bytes_done in done)
    final = reports[-1]
    assert final["progress"]["bytes_done"] == final["progress"]["bytes_expected"] == SIZE
    assert operation_of(daemon, load["id"]) == final


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_any_moment_nothing_that_was_accepted_is_lost(daemon: Daemon) -> None:
    """Twelve lives of one daemon: whatever was answered with 202 is known in the next."""
    prepare_load(daemon)
    chance = random.Random(7)
    accepted: dict[str, dict[str, Any]] = {}
    for life in range(12):
        killer = threading.Timer(chance.uniform(0.0, 0.4), daemon.process.kill)
        killer.start()
        try:
            for number in range(100):
                path, body = chance.choice(
                    [
                        ("/v1/pagecache/dumps", {}),
                        ("/v1/pagecache/loads", {"bytes_per_second": SLOW * 100}),
                        ("/v1/pagecache/evictions", {"paths": [str(daemon.root / "file-0")]}),
                    ]
                )
                key = {"Idempotency-Key": f"{life}-{number}"}
                response = daemon.http.post(path, json=body, headers=key)
                assert response.status_code in {202, 409}, response.text
                if response.status_code == 202:
                    accepted[response.json()["id"]] = response.json()
        except httpx.TransportError:
            pass  # it was killed while it was asked
        killer.join()
        daemon.process.wait(10)
        assert not list(daemon.state_dir.glob("*damaged*"))
        daemon.restart()
        listed = daemon.http.get("/v1/operations?limit=1000").json()["operations"]
        assert set(accepted) <= {operation["id"] for operation in listed}
        for operation in listed:
            ended = daemon.finish(operation)
            assert ended["state"] in {"succeeded", "interrupted"}, ended
    assert len(accepted) >= 12
    assert not [path for path in daemon.state_dir.rglob("*") if "tmp" in path.name]


def test_listeners_hear_the_end_of_the_daemon(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    ended = threading.Event()
    answers: list[dict[str, Any]] = []
    client = daemon.client()

    def listen() -> None:
        with client.stream(
            "GET",
            f"/v1/operations/{load['id']}/events",
            headers={"Accept": "application/x-ndjson"},
        ) as stream:
            # One by one: the test checks them while more are coming.
            answers.extend(json.loads(line) for line in stream.iter_lines() if line)
        ended.set()

    listener = threading.Thread(target=listen)
    listener.start()
    until(lambda: answers, what="the first report")
    daemon.process.terminate()
    assert daemon.process.wait(5) == 0
    assert ended.wait(5), "the stream was not ended in an orderly way"
    listener.join()
    assert answers[-1]["state"] in {"queued", "interrupted"}


def test_a_long_poll_is_answered_when_the_daemon_stops(daemon: Daemon) -> None:
    prepare_load(daemon)
    load = start_slow_load(daemon)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(daemon.socket))
        client.sendall(
            f"GET /v1/operations/{load['id']}?wait=60 HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        )
        # Of a connection alone, the daemon may not have read the request yet.
        until(lambda: unread_bytes(client) == 0, what="the daemon to read the request")
        daemon.process.terminate()
        assert daemon.process.wait(5) == 0
        with client.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            assert b'"state":' in answer.read()


def unread_bytes(client: socket.socket) -> int:
    """How much of what was sent its other end has not read: SIOCOUTQ, unix(7)."""
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_clients_that_hang_up_on_a_stream_leave_nothing_behind(daemon: Daemon) -> None:
    prepare_load(daemon)
    daemon_process = psutil.Process(daemon.pid)
    daemon.http.get("/healthz")
    load = start_slow_load(daemon, rate=SLOW // 16)
    before = daemon_process.num_fds()
    kept = []  # a stream is closed with its iterator
    with ExitStack() as streams:
        for _ in range(50):
            client = daemon.client()
            stream = streams.enter_context(
                client.stream("GET", f"/v1/operations/{load['id']}/events")
            )
            kept.append(stream.iter_lines())
            next(kept[-1])
        assert daemon_process.num_fds() >= before + 40
    until(lambda: daemon_process.num_fds() <= before + 5, what="the end of the connections")
    assert operation_of(daemon, load["id"])["state"] == "running"
    daemon.http.post(f"/v1/operations/{load['id']}/cancel")
