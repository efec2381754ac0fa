"""Connections of strangers, in any number and at any stage: others are served all the same."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.daemon.harness import Daemon
from tests.support.promptness import promptly
from tests.support.servers.certificates import Authority, Issued, secure_client
from tests.support.waiting import until

LIMIT = 192
"""Open files that the daemon may have here."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def cramped(start_daemon: Callable[..., Daemon], authority: Authority) -> Daemon:
    """A daemon with TLS and few descriptors."""
    server: Issued = authority.issue("server")
    return start_daemon(
        tls={"certificate": str(server.certificate), "key": str(server.key)},
        wrapper=("prlimit", f"--nofile={LIMIT // 2}:{LIMIT}", "--"),
    )


def descriptors(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/fd").iterdir())


def connect(stack: ExitStack, daemon: Daemon, source: str, data: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.socket())
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", daemon.port))
    with suppress(ConnectionError):
        sock.sendall(data)
    return sock


@pytest.mark.parametrize("data", [b"", bytes.fromhex("1603010200010001fc0303")])
@pytest.mark.parametrize("addresses", [1, 40])
def test_connections_without_a_handshake_take_nothing_from_others(
    cramped: Daemon, authority: Authority, data: bytes, addresses: int
) -> None:
    soft, hard = resource.prlimit(cramped.pid, resource.RLIMIT_NOFILE)
    assert (soft, hard) == (LIMIT, LIMIT)
    with ExitStack() as stack:
        for number in range(600):
            connect(stack, cramped, f"127.0.2.{1 + number % addresses}", data)
        with promptly(10):
            assert cramped.http.get("/healthz").status_code == 200
            assert cramped.http.post("/v1/manifests").status_code == 202
            with secure_client(cramped, authority) as http:
                assert http.get("/v1/node").status_code == 200
        assert descriptors(cramped) < LIMIT - 64
        dump = cramped.start("/v1/pagecache/dumps", {})
        assert cramped.finish(dump)["state"] == "succeeded"
    assert "Traceback" not in cramped.log
    assert cramped.log.count("cannot be accepted") <= 1


def test_a_handshake_that_does_not_end_is_given_up(
    start_daemon: Callable[..., Daemon], authority: Authority
) -> None:
    server = authority.issue("server")
    daemon = start_daemon(tls={"certificate": str(server.certificate), "key": str(server.key)})
    with ExitStack() as stack, promptly(22):
        waiting = [
            connect(stack, daemon, "127.0.0.1", data)
            for data in (b"", bytes.fromhex("1603010200010001fc0303"))
        ]
        for sock in waiting:
            sock.settimeout(25)
            with suppress(ConnectionError):
                assert sock.recv(1) == b""


def test_strangers_are_let_go_after_their_answer(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), 10) as sock:
        sock.sendall(b"GET /v1/node HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        answer = b""
        with suppress(ConnectionError):
            while chunk := sock.recv(65536):
                answer += chunk
    assert answer.count(b"HTTP/1.1 401 ") == 1
    # Where no token is needed it is kept for a moment, unless there is a body to come.
    for more, answered in ((b"", 2), (b"Content-Length: 100000\r\n", 1)):
        with socket.create_connection(("127.0.0.1", daemon.port), 10) as sock:
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n"
            with promptly(9):
                sock.sendall(request * 2)
                answer = b""
                with suppress(ConnectionError):
                    while chunk := sock.recv(65536):
                        answer += chunk
                assert answer.count(b"HTTP/1.1 200 ") == answered


def test_five_hundred_silent_ones_lock_nobody_out(daemon: Daemon) -> None:
    with ExitStack() as stack:
        known = daemon.client("read")
        assert known.get("/v1/node").status_code == 200
        for _ in range(700):
            connect(stack, daemon, "127.0.0.1")
        newcomer = daemon.client("admin")
        assert newcomer.get("/v1/node").status_code == 200
        assert known.get("/v1/node").status_code == 200
        until(lambda: descriptors(daemon) < 250 or None, what="the share of one address")
