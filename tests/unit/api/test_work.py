"""Work for requests in the real server: turns, deadlines, and clients that are too slow."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast._engine import Progress
from holdfast.api.http.problems import ProblemError
from holdfast.api.http.work import Pace, Turns
from holdfast.api.routes import reimage as routes
from holdfast.operations.ids import new_id
from holdfast.reimage.service import Reimage
from tests.oracles.records import lone_manifest
from tests.support.daemon.api import Served, served
from tests.support.waiting import until

DUMPS, BUILDS = "/v1/pagecache/dumps", "/v1/manifests"


def connected(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.settimeout(10)
    return client


def authorized(server: Served, request: str) -> bytes:
    token = server.secrets["operate"]
    return f"{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode()


def broken_off(client: socket.socket) -> bool:
    """Read what there is left, and return whether the other end closed the connection."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_client_that_takes_nothing_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "SECONDS", 0.5)
    with served(tmp_path) as server, server.http() as http, connected(server) as client:
        manifest = new_id()
        content = lone_manifest("f", 150_000, 0)
        put = http.put(f"{BUILDS}/{manifest}/content", content=content)
        assert put.status_code == 201, put.text
        path = f"{BUILDS}/{manifest}/content?format=jsonl"
        client.sendall(authorized(server, f"GET {path}") + b"\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        # The same caller gets the next turn once this one is over.
        with server.tcp("operate") as other, other.stream("GET", path) as response:
            assert response.status_code == 200
        assert broken_off(client)


def test_a_client_that_sends_nothing_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "SECONDS", 0.5)
    with served(tmp_path) as server, connected(server) as client:
        head = authorized(server, f"PUT {DUMPS}/{new_id()}/content")
        client.sendall(head + b"Content-Length: 1000000\r\n\r\n" + bytes(1000))
        answer = b""
        # Head and body can arrive apart.
        while b"send it again, faster" not in answer and (more := client.recv(1 << 16)):
            answer += more
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"send it again, faster" in answer
        assert broken_off(client)
        dumps = server.services.state_dir / "dumps"
        until(lambda: not list(dumps.glob(".*.upload")), what="the removal of what was sent")


def test_a_plan_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def plan(_self: object, _request: object, progress: Progress, **_options: Any) -> Any:
        until(lambda: progress.cancelled, what="the deadline")
        ended.set()
        raise OSError(5, "cancelled")

    monkeypatch.setattr(Reimage, "plan", plan)
    monkeypatch.setattr(routes, "_PLAN_SECONDS", 0.3)
    with served(tmp_path) as server, server.http() as http:
        body = {"descriptor": "https://images.example/x.json", "descriptor_sha256": "0" * 64}
        response = http.post("/v1/reimage/plan", json=body)
        assert response.status_code == 503, response.text
        assert "longer than the 0.3 s" in response.json()["detail"]
        assert ended.wait(5)
        monkeypatch.setattr(routes, "_PLAN_SECONDS", 60)
        ended.clear()
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/reimage/plan", json=body, timeout=0.3)
        assert ended.wait(5), "it went on although its client had hung up"


def test_turns_are_bounded_for_one_caller_and_in_all() -> None:
    async def run() -> None:
        turns = Turns("things", total=2, each=1, wait=0.05)
        async with turns.turn("a"):
            with pytest.raises(ProblemError, match="too many things"):
                async with turns.turn("a"):
                    pass
            async with turns.turn("b"):
                with pytest.raises(ProblemError, match="too many things"):
                    async with turns.turn("c"):
                        pass
            waiting = asyncio.ensure_future(turns.turn("a").__aenter__())
            await asyncio.sleep(0)
        await waiting

    asyncio.run(run())
