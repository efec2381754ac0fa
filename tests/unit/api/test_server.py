from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast._engine import Progress
from holdfast.api.http.transport.connections import Connection, Connections
from holdfast.api.http.transport.protocol import Protocol
from holdfast.api.http.transport.tls import ListenError
from holdfast.api.http.work import THREADS, Pool
from holdfast.api.server import HttpServer
from holdfast.memory.service import MemoryStates
from holdfast.pagecache.service import PageCache
from holdfast.process.descriptors import ConnectionLimits
from tests.support.daemon.api import Served, replace, served
from tests.support.daemon.operations import Params, Work, kind_of
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


def raw(address: str | tuple[str, int], request: bytes) -> bytes:
    """Send bytes and read the answer until the server hangs up."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(10)
        connection.connect(address)
        with suppress(ConnectionError):  # it may have had enough
            connection.sendall(request)
        answer = b""
        with suppress(ConnectionError):  # what it never read
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def audit_lines(server: Served) -> list[dict[str, Any]]:
    """The content of the audit log so far: nothing before its first line is written."""
    file = server.socket.parent / "state/audit.log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class TestSocket:
    def test_mode_and_parent(self, tmp_path: Path) -> None:
        path = tmp_path / "run" / "deep" / "s"
        with served(tmp_path, socket=str(path), socket_mode="0620") as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o620
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
                assert http.get("http://h/healthz").status_code == 200
            assert server.server.addresses[0] == f"unix:{path}"
        assert not path.exists()

    def test_what_a_crash_left_is_replaced(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "s"))
        with served(tmp_path) as server, server.http() as http:
            assert http.get("/healthz").status_code == 200

    def test_one_in_use_is_left_alone(self, server: Served) -> None:
        with pytest.raises(ListenError, match="Another process listens on the socket"):
            asyncio.run(HttpServer(server.services).start())
        with server.http() as http:
            assert http.get("/healthz").status_code == 200

    def test_a_file_in_its_place_is_left_alone(self, server: Served, tmp_path: Path) -> None:
        file = tmp_path / "precious"
        file.write_text("data")
        settings = server.services.settings.model_copy(update={"socket": file})
        with pytest.raises(ListenError, match="is not a socket"):
            asyncio.run(HttpServer(replace(server.services, settings=settings)).start())
        assert file.read_text() == "data"

    def test_a_path_that_no_socket_can_have(self, server: Served, tmp_path: Path) -> None:
        settings = server.services.settings.model_copy(update={"socket": tmp_path / ("x" * 120)})
        with pytest.raises(ListenError, match="too long"):
            asyncio.run(HttpServer(replace(server.services, settings=settings)).start())

    def test_a_port_in_use_is_named_and_nothing_stays_bound(
        self, server: Served, tmp_path: Path
    ) -> None:
        port = httpx.URL(server.url).port
        path = tmp_path / "other"
        settings = server.services.settings.model_copy(
            update={"socket": path, "listen": f"127.0.0.1:{port}"}
        )
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            asyncio.run(HttpServer(replace(server.services, settings=settings)).start())
        assert not path.exists()

    def test_a_successor_keeps_its_socket(self, server: Served) -> None:
        server.socket.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(server.socket))
            server.stop()
            assert server.socket.exists()


class TestStop:
    def test_a_request_that_is_broken_off_is_not_answered(
        self, server: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been done or not: no answer says so, and a 500 would claim a defect."""
        began, ended = threading.Event(), threading.Event()

        def state(*_: object, **__: object) -> None:
            began.set()
            ended.wait(30)

        monkeypatch.setattr(MemoryStates, "state", state)
        with ThreadPoolExecutor(1) as pool, server.http() as http:
            asked = pool.submit(http.get, "/v1/memory")
            try:
                assert began.wait(10)
                server.stop(0.2)
                with pytest.raises(httpx.TransportError):
                    asked.result(10)
            finally:
                ended.set()


class TestBrokenHttp:
    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"GARBAGE\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
        ],
    )
    def test_is_a_problem(self, server: Served, request_bytes: bytes) -> None:
        head, _, body = raw(str(server.socket), request_bytes).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/problem+json" in head.lower()
        assert json.loads(body)["type"] == "/problems/invalid-request"
        assert json.loads(body)["status"] == 400

    def test_in_a_body_under_way(self, server: Served) -> None:
        request = (
            b"POST /v1/pagecache/dumps HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nnot a chunk\r\n\r\n"
        )
        answer = raw(str(server.socket), request)
        assert answer.startswith(b"HTTP/1.1 4")
        with server.http() as http:
            assert http.get("/healthz").status_code == 200

    def test_an_upload_cut_short_leaves_nothing(self, server: Served, tmp_path: Path) -> None:
        request = (
            b"PUT /v1/pagecache/dumps/01JDZZZZZZZZZZZZZZZZZZZZZZ/content HTTP/1.1\r\nHost: h\r\n"
            b"Content-Length: 4000000\r\n\r\n"
        )
        dumps = tmp_path / "state" / "dumps"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.socket))
            connection.sendall(request + b"x" * 3_000_000)
            until(lambda: any(dumps.iterdir()), what="the upload's file")
        until(lambda: not any(dumps.iterdir()), what="its removal")
        assert all(line["status"] == 499 for line in until(lambda: audit_lines(server)))


class TestErrors:
    def test_an_unexpected_error_tells_nothing_and_logs_everything(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(PageCache):
            def __init__(self) -> None:
                pass

            def state(self, **_options: Any) -> Any:
                raise RuntimeError("the secret is swordfish")

        def break_it(services: Any) -> Any:
            return replace(services, capabilities=[Broken(), *services.capabilities])

        with served(tmp_path, change=break_it) as server, server.http() as http:
            response = http.get("/v1/pagecache")
            metrics = http.get("/metrics").text
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["type"] == "/problems/internal"
        assert "swordfish" not in response.text
        assert "Traceback" not in response.text
        assert problem["incident"] in caplog.text
        assert "the secret is swordfish" in caplog.text
        assert 'code="500",method="GET",route="/v1/pagecache"} 1.0' in metrics

    def test_degraded(self, tmp_path: Path) -> None:
        reason = "Root /mnt/data does not exist."
        with served(tmp_path, degraded=[reason]) as server, server.http() as http:
            response = http.get("/readyz")
            assert response.status_code == 503
            assert response.json()["reasons"] == [reason]
            assert http.get("/healthz").status_code == 200
            assert f"NOT READY: {reason}" in http.get("/").text

    def test_the_status_page_has_nothing_of_the_node_in_it(self, tmp_path: Path) -> None:
        work = Work()
        hostile = "<script>alert(1)</script>"
        with (
            served(tmp_path, kind_of(work), degraded=[hostile]) as server,
            server.http() as http,
        ):
            page = http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
            policy = page.headers["content-security-policy"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in policy
        assert "alert(1)" not in page.text
        # Nothing but the page's own script and style may run, known by their digests.
        assert "unsafe" not in policy
        for tag in ("script", "style"):
            (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy


class TestPeer:
    def test_the_audit_log_knows_the_user_of_the_socket(self, tmp_path: Path) -> None:
        work = Work()
        with served(tmp_path, kind_of(work)) as server, server.http() as http:
            operation, _ = server.operations.start("test.work", Params(), actor="test")
            work.wait_begun()
            path = f"/v1/operations/{operation.id}/cancel"
            assert http.post(path).status_code == 202
            (line,) = audit_lines(server)
        assert line["who"] == f"uid:{os.getuid()}"
        assert line["remote"] == f"pid {os.getpid()}"
        assert (line["method"], line["path"], line["status"]) == ("POST", path, 202)
        assert line["route"] == "/v1/operations/{operation_id}/cancel"
        assert line["operation"] == operation.id

    def test_the_line_is_there_before_the_answer(self, server: Served) -> None:
        with server.http() as http:
            for number in range(1, 6):
                http.delete("/v1/pagecache/dumps/01JDZZZZZZZZZZZZZZZZZZZZZZ")
                assert len(audit_lines(server)) == number


def test_health_is_answered_while_all_worker_threads_are_busy(tmp_path: Path) -> None:
    """What may block must not keep the monitoring waiting."""
    busy = threading.Semaphore(0)
    release = threading.Event()

    class Slow(PageCache):
        def __init__(self) -> None:
            pass

        def dump(self, dump_id: str, progress: Progress | None = None) -> Any:
            del progress
            busy.release()
            release.wait(20)
            raise OSError(5, "Input/output error", dump_id)

    def slow_down(services: Any) -> Any:
        return replace(services, capabilities=[Slow(), *services.capabilities])

    with served(tmp_path, change=slow_down) as server:

        def ask() -> None:
            with server.http() as http:
                assert http.get("/v1/pagecache/dumps/latest").status_code == 500

        askers = [threading.Thread(target=ask) for _ in range(60)]
        for asker in askers:
            asker.start()
        for _ in range(THREADS[Pool.READS]):
            assert busy.acquire(timeout=20)
        try:
            with server.http() as http:
                assert http.get("/healthz", timeout=5).status_code == 200
                assert http.get("/metrics", timeout=5).status_code == 200
                assert http.get("/readyz", timeout=5).status_code == 200
        finally:
            release.set()
            for asker in askers:
                asker.join(20)


class TestStrangers:
    def test_the_oldest_gives_way_where_there_are_too_many(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = ConnectionLimits(tcp=4, unix=4)
        monkeypatch.setattr("holdfast.api.server.connection_limits", lambda: limits)
        with served(tmp_path) as server, ExitStack() as stack:
            address = ("127.0.0.1", httpx.URL(server.url).port or 0)
            known = stack.enter_context(server.tcp("read"))
            assert known.get("/v1/node").status_code == 200
            silent = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(9)]
            with server.tcp("read") as newcomer:
                assert newcomer.get("/v1/node").status_code == 200
            # Closed in the order of arrival.
            with suppress(ConnectionError):
                assert silent[0].recv(1) == b""
            # The connection that has shown a token is the same as before.
            (connection,) = known._transport._pool.connections  # type: ignore[attr-defined]
            assert known.get("/v1/node").status_code == 200
            assert connection in known._transport._pool.connections  # type: ignore[attr-defined]
            with server.http() as http:
                assert http.get("/healthz").status_code == 200

    def test_one_address_has_a_share(self) -> None:
        table = Connections(100, per_address=3)
        closed: list[Connection] = []

        def arrive(address: str, *, known: bool = False) -> Connection:
            connection = Connection(address, table, known=known)
            connection.abort = lambda: closed.append(connection)
            assert table.admit(connection)
            return connection

        honest = arrive("192.0.2.1")
        crowd = [arrive("192.0.2.2") for _ in range(10)]
        assert closed == crowd[:7]
        crowd[9].recognise()
        arrive("192.0.2.2")
        assert closed == crowd[:7]
        assert honest not in closed
        assert len(table) == 5

    def test_the_address_with_the_most_gives_way_first(self) -> None:
        table = Connections(6, per_address=5)
        closed: list[str] = []

        def arrive(address: str, known: bool = False) -> bool:
            connection = Connection(address, table, known=known)
            connection.abort = lambda: closed.append(address)
            return table.admit(connection)

        for address in ("a", "b", "b", "b", "c", "d"):
            assert arrive(address)
        assert arrive("e")
        assert closed == ["b"]
        assert len(table) == 6
        # Those known and busy are never closed: nobody is let in for them.
        for _ in range(6):
            assert arrive("k", known=True)
        assert not arrive("f")

    @pytest.mark.parametrize("began", [b"", b"GET / HTTP/1.1\r\nHo"])
    def test_who_never_says_what_it_wants_is_let_go(
        self, server: Served, monkeypatch: pytest.MonkeyPatch, began: bytes
    ) -> None:
        monkeypatch.setattr(Protocol, "header_seconds", 0.2)
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), 10) as slow:
            slow.sendall(began)
            with suppress(ConnectionError):
                assert slow.recv(1) == b""

    def test_a_long_answer_and_a_kept_connection_are_not_cut(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Protocol, "header_seconds", 0.2)
        work = Work()
        with served(tmp_path, kind_of(work)) as server, server.http() as http:
            operation, _ = server.operations.start("test.work", Params(), actor="test")
            work.wait_begun()
            path = f"/v1/operations/{operation.id}"
            for _ in range(2):
                assert http.get(path, params={"wait": 0.5}).json()["state"] == "running"
            work.release_all()
