"""TCP with TLS, with and without client certificates, by certificates made here."""

from __future__ import annotations

import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon.audit import audit
from tests.support.daemon.harness import Daemon
from tests.support.servers.certificates import Authority, secure_client
from tests.support.waiting import until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_tls(start_daemon: Any, authority: Authority) -> None:
    server = authority.issue("server")
    daemon: Daemon = start_daemon(
        tls={"certificate": str(server.certificate), "key": str(server.key)}
    )
    with secure_client(daemon, authority) as http:
        assert http.get("/v1/node").status_code == 200
        assert http.get("/v1/node", headers={"Authorization": ""}).status_code == 401
        assert "https://127.0.0.1" in http.get("/").text
    with pytest.raises(httpx.TransportError):
        daemon.client(tcp=True).get("/healthz")
    assert daemon.http.get("/healthz").status_code == 200


def test_client_certificates(start_daemon: Any, authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server")
    clients = Authority(tmp_path, "clients")
    daemon: Daemon = start_daemon(
        tls={
            "certificate": str(server.certificate),
            "key": str(server.key),
            "client_ca": str(clients.file),
        }
    )
    with secure_client(daemon, authority, clients.issue("deployer", organization="A, B")) as http:
        assert http.get("/v1/node").status_code == 200
        # A certificate does not replace a token.
        assert http.get("/v1/node", headers={"Authorization": ""}).status_code == 401
        assert http.post("/v1/pagecache/dumps").status_code == 202
    assert [(line["who"], line["certificate"]) for line in audit(daemon)] == [
        ("token:test-operate", r"CN=deployer,O=A\, B")
    ]
    for shown in (None, authority.issue("stranger")):
        with (
            secure_client(daemon, authority, shown) as http,
            pytest.raises(httpx.TransportError),
        ):
            http.get("/healthz")


def test_certificates_are_taken_again_without_a_restart(
    start_daemon: Any, authority: Authority, tmp_path: Path
) -> None:
    first = authority.issue("server")
    clients = Authority(tmp_path, "clients")
    daemon: Daemon = start_daemon(
        tls={
            "certificate": str(first.certificate),
            "key": str(first.key),
            "client_ca": str(clients.file),
        }
    )
    (tmp_path / "new").mkdir()
    others = Authority(tmp_path / "new", "others")
    old, new = clients.issue("old"), others.issue("new")
    open_connection = secure_client(daemon, authority, old)
    assert open_connection.get("/v1/node").status_code == 200

    # What is torn or does not fit together changes nothing.
    second = others.issue("server")
    whole = first.key.read_bytes()
    first.key.write_bytes(second.key.read_bytes())
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "The old one stays in use" in daemon.log, what="the refusal of a wrong key")
    with secure_client(daemon, authority, old) as http:
        assert http.get("/v1/node").status_code == 200
    first.key.write_bytes(whole)

    for path, content in (
        (first.certificate, second.certificate),
        (first.key, second.key),
        (clients.file, others.file),
    ):
        path.write_bytes(content.read_bytes())
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "was taken again" in daemon.log, what="the new certificate")

    with secure_client(daemon, others, new) as http:
        assert http.get("/v1/node").status_code == 200
    # The old authority's certificates count no more, on either side.
    for theirs, shown in ((authority, new), (others, old)):
        with (
            secure_client(daemon, theirs, shown) as http,
            pytest.raises(httpx.TransportError),
        ):
            http.get("/healthz")
    # Nor does a connection that was made under it.
    with pytest.raises(httpx.TransportError):
        open_connection.get("/v1/node")
    open_connection.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_the_authority_of_its_certificate(
    start_daemon: Any, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    server = authority.issue("server")
    clients = Authority(tmp_path, "clients")
    (tmp_path / "new").mkdir()
    others = Authority(tmp_path / "new", "others")
    daemon: Daemon = start_daemon(
        tls={
            "certificate": str(server.certificate),
            "key": str(server.key),
            "client_ca": str(clients.file),
        }
    )
    context = ssl.create_default_context(cafile=authority.file)
    context.minimum_version = context.maximum_version = version
    shown = clients.issue("deployer")
    context.load_cert_chain(shown.certificate, shown.key)

    def connect(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", daemon.port), 10)
        return context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)

    def ask(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.recv(4096)
        while answer and not answer.endswith(b"}\n"):
            answer += connection.recv(4096)
        return answer

    kept = connect()
    assert ask(kept).startswith(b"HTTP/1.1 200 ")
    session = kept.session
    clients.file.write_bytes(others.file.read_bytes())
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "client authorities changed" in daemon.log, what="the new authorities")
    answer = b""
    with suppress(OSError), connect(session) as resumed:
        answer = ask(resumed)
    assert answer == b""
    with kept, suppress(ConnectionError):
        assert kept.recv(4096) == b""


def test_a_new_certificate_alone_closes_nothing(start_daemon: Any, authority: Authority) -> None:
    server = authority.issue("server")
    daemon: Daemon = start_daemon(
        tls={"certificate": str(server.certificate), "key": str(server.key)}
    )
    with secure_client(daemon, authority) as http:
        assert http.get("/v1/node").status_code == 200
        (connection,) = http._transport._pool.connections  # type: ignore[attr-defined]
        authority.issue("server")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "was taken again" in daemon.log, what="the new certificate")
        assert http.get("/v1/node").status_code == 200
        assert http._transport._pool.connections == [connection]  # type: ignore[attr-defined]


def test_a_changed_certificate_is_noticed(start_daemon: Any, authority: Authority) -> None:
    first = authority.issue("server")
    daemon: Daemon = start_daemon(
        tls={"certificate": str(first.certificate), "key": str(first.key)}
    )
    authority.issue("server")
    until(lambda: "was taken again" in daemon.log, seconds=30, what="the new certificate")
    with secure_client(daemon, authority) as http:
        assert http.get("/v1/node").status_code == 200


def test_a_certificate_that_cannot_be_used(start_daemon: Any, tmp_path: Path) -> None:
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("nonsense")
        (tmp_path / name).chmod(0o600)
    daemon: Daemon = start_daemon(
        wait=False,
        tls={"certificate": str(tmp_path / "certificate"), "key": str(tmp_path / "key")},
    )
    until(lambda: daemon.process.poll() is not None, what="the end of the daemon")
    assert daemon.process.returncode != 0
    assert "certificate" in daemon.log
    assert "Traceback" not in daemon.log
