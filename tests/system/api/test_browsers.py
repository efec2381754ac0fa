"""A page in the operator's browser gets nothing from a transport that asks for no token."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.daemon.audit import audit
from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon

EVIL = "https://evil.example"
FOREIGN = (
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Origin": "http://localhost:8080"},
    {"Sec-Fetch-Site": "same-site"},
    {"Referer": f"{EVIL}/page"},
    {"Host": "evil.example:9918"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost@evil.example"},
    {"Host": "holdfast.evil.example"},
    {"Host": "evil", "Accept-Language": "en"},
    {"Host": "evil", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"},
    {"Host": ""},
    {"Host": "a" * 4000},
)
ACTIONS = (
    "/v1/pagecache/dumps",
    "/v1/manifests",
    "/v1/tuning/rollback",
    "/v1/reimage/arm",
    "/v1/reimage/reboot",
    "/v1/reimage/rollback",
)


@pytest.mark.parametrize("headers", FOREIGN)
def test_the_unix_socket_refuses_foreign_pages(
    shared_daemon: Daemon, headers: dict[str, str]
) -> None:
    """An ssh forward of the socket to a port makes it reachable for every page."""
    http = shared_daemon.http
    before = len(http.get("/v1/operations", params={"limit": 1000}).json()["operations"])
    check_problem(http.get("/v1/node", headers=headers), 403, "forbidden")
    for path in ACTIONS:
        check_problem(http.post(path, headers=headers), 403, "forbidden")
    evict = http.post("/v1/pagecache/evictions", json={"paths": ["/"]}, headers=headers)
    check_problem(evict, 403, "forbidden")
    check_problem(http.delete("/v1/manifests/latest", headers=headers), 403, "forbidden")
    after = len(http.get("/v1/operations", params={"limit": 1000}).json()["operations"])
    assert after == before


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain;a=b", "Multipart/Form-Data"]
)
def test_what_a_form_sends_is_refused(shared_daemon: Daemon, kind: str) -> None:
    for content in (b"", b"a=b"):
        response = shared_daemon.http.post(
            "/v1/pagecache/dumps", content=content, headers={"Content-Type": kind}
        )
        check_problem(response, 415, "unsupported-media-type")


def test_a_browser_needs_more_than_an_empty_body(daemon: Daemon) -> None:
    browser = {
        "Host": "localhost:9918",
        "Origin": "http://localhost:9918",
        "Sec-Fetch-Site": "same-origin",
        "User-Agent": "Mozilla/5.0",
    }
    path = "/v1/pagecache/dumps"
    check_problem(daemon.http.post(path, headers=browser), 403, "forbidden")
    marked = {**browser, "X-Holdfast": "1"}
    first = daemon.http.post(path, headers=marked)
    assert first.status_code == 202
    daemon.finish(first.json())
    assert daemon.http.post(path, json={}, headers=browser).status_code == 202


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9918", "127.0.0.1:9918", "[::1]:9918", "holdfast", "x", "h:1"]
)
def test_scripts_on_the_unix_socket_go_on_without_headers(shared_daemon: Daemon, host: str) -> None:
    assert shared_daemon.http.get("/v1/node", headers={"Host": host}).status_code == 200
    missing = shared_daemon.http.delete("/v1/manifests/0", headers={"Host": host})
    assert missing.status_code == 404


def test_a_wrong_token_does_not_open_the_unix_socket_for_pages(shared_daemon: Daemon) -> None:
    http = shared_daemon.http
    for given in ("Bearer hf_wrong", "Bearer", "Basic eA=="):
        headers = {"Authorization": given, "Host": "evil.example"}
        check_problem(http.get("/v1/node", headers=headers), 403, "forbidden")
    right = {"Authorization": f"Bearer {shared_daemon.tokens.secrets['read']}"}
    assert http.get("/v1/node", headers={**right, "Host": "node.example"}).status_code == 200


def test_a_configured_name_is_a_host_as_any_other(start_daemon: object) -> None:
    daemon: Daemon = start_daemon(host_names=["node.example"])  # type: ignore[operator]
    named = {"Host": "node.example:9918", "Accept-Language": "en"}
    assert daemon.http.get("/v1/node", headers=named).status_code == 200
    other = {"Host": "other.example"}
    check_problem(daemon.http.get("/v1/node", headers=other), 403, "forbidden")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_monitoring_is_not_for_pages_either(shared_daemon: Daemon, path: str) -> None:
    http = shared_daemon.client(tcp=True)
    assert http.get(path).status_code == 200
    check_problem(http.get(path, headers={"Host": "evil.example"}), 403, "forbidden")
    check_problem(http.get(path, headers={"Origin": EVIL}), 403, "forbidden")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_load_balancer_may_check_by_http_1_0(shared_daemon: Daemon, path: str) -> None:
    with socket.create_connection(("127.0.0.1", shared_daemon.port), 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_page_with_a_token_is_served_under_any_name(shared_daemon: Daemon) -> None:
    http = shared_daemon.client("read")
    own = {"Host": "node.example:9918", "Referer": "http://node.example:9918/"}
    assert http.get("/v1/node", headers=own).status_code == 200


def test_the_first_answer_names_the_socket_and_how_to_make_a_token(shared_daemon: Daemon) -> None:
    for path in ("/", "/v1/node"):
        response = shared_daemon.client(tcp=True).get(path)
        detail = check_problem(response, 401, "unauthenticated")["detail"]
        assert "holdfast token create" in detail
        assert f"--unix-socket {shared_daemon.socket}" in detail


class TestAudit:
    def test_strangers_write_nothing_to_the_file(self, daemon: Daemon) -> None:
        daemon.start("/v1/pagecache/dumps", {})
        before = (daemon.state_dir / "audit.log").read_bytes()
        http = daemon.client(tcp=True)
        for method in ("POST", "A" * 900, "PUT", "DELETE"):
            for path in ("/", "/healthz", "/metrics", "/readyz", "/v1/node", "/nope"):
                response = http.request(method, path)
                assert response.status_code in (401, 405), (method, path)
                assert response.headers["connection"] == "close"
        assert (daemon.state_dir / "audit.log").read_bytes() == before
        assert "A" * 17 not in daemon.log

    def test_long_methods_are_cut(self, daemon: Daemon) -> None:
        daemon.http.request("B" * 900, "/v1/node")
        (line,) = audit(daemon)
        assert line["method"] == "B" * 16

    def test_admin_calls_have_a_file_that_others_cannot_rotate(self, daemon: Daemon) -> None:
        daemon.client("operate").post("/v1/tuning/rollback")  # refused: not the admin's line
        daemon.client("operate").delete("/v1/manifests/0")
        daemon.client("admin").post("/v1/tuning/rollback")
        file = daemon.state_dir / "audit-admin.log"
        (line,) = [json.loads(text) for text in file.read_text().splitlines()]
        assert (line["who"], line["path"]) == ("token:test-admin", "/v1/tuning/rollback")
        assert file.stat().st_mode & 0o777 == 0o600
        assert line in audit(daemon)
