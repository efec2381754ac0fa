"""Where plans and stagings fetch from: never this machine unless it is listed, and for whom."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import psutil
import pytest

from holdfast.reimage.images.sources import AllowedSources, SourceError
from holdfast.reimage.images.sources.network import Connections
from tests.support.daemon.harness import Daemon
from tests.support.machine.namespaces import own_namespaces
from tests.support.promptness import promptly
from tests.support.servers.fileserver import Behaviour, serving
from tests.support.waiting import until

SHA256 = "0" * 64
PLAN = "/v1/reimage/plan"
SECRET = b"the secret of another service"
Start = Callable[..., Daemon]


def planning(daemon: Daemon, url: str, scope: str | None = None, **options: Any) -> httpx.Response:
    client = daemon.client(scope, **options)
    return client.post(PLAN, json={"descriptor": url, "descriptor_sha256": SHA256})


def blocked(daemon: Daemon, url: str, scope: str | None = None) -> str:
    """Return why there is no image."""
    response = planning(daemon, url, scope)
    assert response.status_code == 200, response.text
    assert response.json()["image"] is None
    return " ".join(response.json()["blocked"])


def start(start_daemon: Start, *sources: str, **options: Any) -> Daemon:
    imager = "/nonexistent/imager"
    return start_daemon(reimage={"sources": list(sources), "imager": imager}, **options)


@pytest.fixture
def server() -> Iterator[tuple[Behaviour, str]]:
    behaviour = Behaviour({"/x.json": SECRET})
    with serving(behaviour) as url:
        yield behaviour, url


def test_without_a_list_only_admin_plans_and_not_from_this_machine(
    start_daemon: Start, server: tuple[Behaviour, str]
) -> None:
    daemon = start(start_daemon)
    behaviour, url = server
    port = url.rpartition(":")[2]
    refused = planning(daemon, f"{url}/x.json", "operate")
    assert refused.status_code == 403, refused.text
    assert "`reimage.sources`" in refused.json()["detail"]
    own = next(
        assigned.address
        for interface in psutil.net_if_addrs().values()
        for assigned in interface
        if assigned.family is socket.AF_INET
    )
    hosts = (
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.9.9.9",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        own,
    )
    for host in hosts:
        reported = blocked(daemon, f"http://{host}:{port}/x.json")
        assert "Nothing is fetched from" in reported, (host, reported)
    for host in (
        "169.254.169.254",
        "[fe80::1]",
        "224.0.0.1",
        "[fd00:ec2::254]",
        "[64:ff9b::a9fe:1]",
    ):
        assert "Nothing is fetched from" in blocked(daemon, f"http://{host}/latest"), host
    assert behaviour.asked == []


def test_what_is_listed_is_fetched_for_operate_too_and_nothing_else(
    start_daemon: Start, server: tuple[Behaviour, str]
) -> None:
    behaviour, url = server
    with serving(Behaviour({"/x.json": SECRET})) as other:
        daemon = start(start_daemon, f"{url}/", f"file://{Path('/nowhere')}")
        assert "SHA-256" in blocked(daemon, f"{url}/x.json", "operate")
        assert len(behaviour.asked) == 1
        for elsewhere in (
            f"{other}/x.json",
            f"{url.replace('127.0.0.1', 'localhost')}/x.json",
            "https://images.example.org/x.json",
            f"file://{daemon.root}/x.json",
            "s3://bucket/x.json",
        ):
            for scope in ("operate", "admin"):
                refused = planning(daemon, elsewhere, scope)
                assert refused.status_code == 403, refused.text
                assert "not below one of the sources" in refused.json()["detail"]
            stage = daemon.client("admin").post(
                "/v1/reimage/stage", json={"descriptor": elsewhere, "descriptor_sha256": SHA256}
            )
            assert stage.status_code == 403, stage.text
        # An image that is elsewhere than its descriptor has to be listed as well.
        body = {"descriptor": f"{url}/x.json", "descriptor_sha256": SHA256}
        body["content"] = f"{other}/disk.raw"
        assert daemon.client("admin").post(PLAN, json=body).status_code == 403


def test_a_redirect_leads_to_what_is_listed_only(
    start_daemon: Start, server: tuple[Behaviour, str]
) -> None:
    behaviour, url = server
    inner = Behaviour({"/x.json": SECRET})
    with serving(inner) as other:
        daemon = start(start_daemon, f"{url}/")
        behaviour.redirects = {
            "/1": f"{other}/x.json",
            "/2": "http://169.254.169.254/latest/meta-data/",
            "/3": f"http://[::ffff:127.0.0.1]:{other.rpartition(':')[2]}/x.json",
            "/4": "/x.json",
        }
        for path in ("/1", "/2", "/3"):
            assert "not below one of the sources" in blocked(daemon, f"{url}{path}", "operate")
        assert "SHA-256" in blocked(daemon, f"{url}/4", "operate")
        assert inner.asked == []


def test_the_digest_of_what_is_there_is_for_admin(
    start_daemon: Start, server: tuple[Behaviour, str]
) -> None:
    _, url = server
    daemon = start(start_daemon, f"{url}/", "file:///")
    (daemon.root / "private").write_bytes(SECRET)
    for address in (f"{url}/x.json", f"file://{daemon.root}/private"):
        reported = blocked(daemon, address, "operate")
        assert f"SHA-256 is not {SHA256}" in reported
        admin = blocked(daemon, address, "admin")
        found = admin.partition("SHA-256 is ")[2][:64]
        assert len(found) == 64
        assert found not in reported


class TestDripping:
    @pytest.fixture
    def dripping(self) -> Iterator[str]:
        """Give the address of a server whose answers never end, not even their heads."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            over = threading.Event()

            def drip(client: socket.socket) -> None:
                with client:
                    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    while not over.wait(0.2):
                        try:
                            client.sendall(b"x")
                        except OSError:
                            return

            def accept() -> None:
                while not over.is_set():
                    try:
                        client, _ = listener.accept()
                    except OSError:
                        return
                    threading.Thread(target=drip, args=(client,), daemon=True).start()

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            over.set()

    def test_it_takes_no_plan_from_others(self, start_daemon: Start, dripping: str) -> None:
        daemon = start(start_daemon, f"{dripping}/", "file:///")
        (daemon.root / "x").write_bytes(SECRET)
        slow = [
            threading.Thread(
                target=lambda: _ignoring(lambda: planning(daemon, f"{dripping}/x", "operate")),
                daemon=True,
            )
            for _ in range(2)
        ]
        for source in slow:
            source.start()
        with promptly(10):
            assert "SHA-256" in blocked(daemon, f"file://{daemon.root}/x", "admin")

    def test_it_ends_with_its_client(self, start_daemon: Start, dripping: str) -> None:
        daemon = start(start_daemon, f"{dripping}/", "file:///")
        (daemon.root / "x").write_bytes(SECRET)
        port = int(dripping.rpartition(":")[2])

        def connections() -> int:
            mine = psutil.Process(daemon.pid).net_connections("tcp")
            return sum(
                bool(connection.raddr) and connection.raddr.port == port for connection in mine
            )

        for scope in ("operate", "admin"):
            with pytest.raises(httpx.ReadTimeout):
                planning(daemon, f"{dripping}/x", scope, seconds=1.0)
        until(lambda: connections() == 0, what="the end of all connections")
        assert "SHA-256" in blocked(daemon, f"file://{daemon.root}/x", "operate")


def _ignoring(call: Callable[[], Any]) -> None:
    try:
        call()
    except httpx.HTTPError:
        return


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers with loopback the second time gets nobody there."""
    answers: list[Sequence[str]] = [["192.0.2.9"], ["127.0.0.1"], ["192.0.2.9", "127.0.0.1"]]
    connected: list[str] = []

    def resolve(_host: str, port: int, **_options: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answers.pop(0)
        ]

    def connect(_self: object, host: str, *_others: Any) -> Any:
        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    connections = Connections(AllowedSources(["http://rebinding.example/"]), guarded=True)
    with pytest.raises(httpcore.ConnectError):
        connections.connect_tcp("rebinding.example", 80)
    assert connected == ["192.0.2.9"]
    for _ in range(2):
        with pytest.raises(SourceError, match=r"its address 127\.0\.0\.1 is loopback"):
            connections.connect_tcp("rebinding.example", 80)
    assert connected == ["192.0.2.9"]


_METADATA = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")
        print("asked", flush=True)
server = http.server.HTTPServer(("169.254.169.254", 80), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@contextmanager
def _metadata(wrapper: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*wrapper, sys.executable, "-c", _METADATA],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_metadata_service_is_not_asked(start_daemon: Start, tmp_path: Path) -> None:
    with own_namespaces(tmp_path / "ns") as own:
        own.run("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
        with _metadata(own.wrapper) as service:
            daemon = start(start_daemon, wrapper=own.wrapper)
            for host in ("169.254.169.254", "2852039166", "[::ffff:169.254.169.254]"):
                reported = blocked(daemon, f"http://{host}/latest/meta-data/")
                assert "is link-local" in reported, reported
            service.kill()
            assert service.stdout is not None
            assert service.stdout.read() == ""
