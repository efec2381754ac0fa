"""Who may call what: tokens, scopes, loopback, web pages, and the audit log."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from holdfast.api.http.callers.failures import BURST, FailureLimit
from holdfast.api.http.callers.tokens import Scope, create, revoke
from tests.support.daemon.audit import audit
from tests.support.daemon.contract import NOTHING, ask, check_problem, operations_of
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until


def challenge(response: httpx.Response) -> str:
    return response.headers["www-authenticate"]


def test_without_a_token_only_monitoring_answers(shared_daemon: Daemon) -> None:
    http = shared_daemon.client(tcp=True)
    document = shared_daemon.http.get("/openapi.json").json()
    for path, method, _ in operations_of(document):
        response = http.request(method, path.replace("{dump_id}", NOTHING))
        if path in ("/healthz", "/readyz", "/metrics", "/v1/version"):
            assert response.status_code == 200
            assert http.head(path).status_code == 200
        else:
            check_problem(response, 401, "unauthenticated")
            assert challenge(response) == 'Bearer realm="holdfast"'
    check_problem(http.get("/nope"), 401, "unauthenticated")
    check_problem(http.post("/metrics"), 405, "method-not-allowed")


def test_the_page_is_the_same_for_everyone_and_the_text_is_not(shared_daemon: Daemon) -> None:
    page = {"Accept": "text/html"}
    nobody = shared_daemon.client(tcp=True).get("/", headers=page)
    assert nobody.status_code == 200
    assert nobody.text == shared_daemon.client("admin").get("/", headers=page).text
    assert str(shared_daemon.root) not in nobody.text
    check_problem(shared_daemon.client(tcp=True).get("/"), 401, "unauthenticated")
    wrong = page | {"Authorization": "Bearer hf_wrong"}
    check_problem(shared_daemon.client(tcp=True).get("/", headers=wrong), 401, "unauthenticated")


def test_an_address_that_keeps_failing_has_to_wait_and_keeps_nobody_out(daemon: Daemon) -> None:
    wrong = {"Authorization": "Bearer hf_wrong"}
    http = daemon.client(tcp=True)
    answers = [http.get("/v1/node", headers=wrong) for _ in range(150)]
    codes = [answer.status_code for answer in answers]
    assert codes[:100] == [401] * 100
    assert 429 in codes[100:]
    limited = answers[codes.index(429)]
    check_problem(limited, 429, "too-many-failures")
    assert 1 <= int(limited.headers["retry-after"]) <= 10
    assert daemon.log.count("was not let in") == codes.count(401)
    # A client with a token is none of those who guess.
    assert daemon.client("read").get("/v1/node").status_code == 200
    assert daemon.http.get("/v1/node").status_code == 200
    assert daemon.client(tcp=True).get("/healthz").status_code == 200


def test_failures_are_counted_by_network_and_forgiven_in_time() -> None:
    now = 0.0
    limit = FailureLimit(lambda: now)
    for port in range(BURST):
        assert limit.failed(f"192.0.2.1:{port}") == 0
        assert limit.failed(f"[2001:db8::{port:x}]:1") == 0
    assert limit.failed("192.0.2.1:1") == 1
    assert limit.failed("[2001:db8::ffff]:1") == 1
    assert limit.failed("192.0.2.2:1") == 0
    assert limit.failed("[2001:db8:1::1]:1") == 0
    now = 2.0
    assert [limit.failed("192.0.2.1:1") for _ in range(3)] == [0, 0, 1]
    for number in range(10_000):
        limit.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1")
    assert len(limit) < 5000


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("Bearer hf_wrong", "invalid_token"),
        ("Bearer", "invalid_request"),
        ("Basic dXNlcjpwYXNz", "invalid_request"),
        ("Bearer \u00e9\u00ff", "invalid_token"),
        ("Bearer " + "x" * 15_000, "invalid_token"),
    ],
)
def test_a_wrong_token_is_refused(shared_daemon: Daemon, given: str, error: str) -> None:
    http = shared_daemon.client(tcp=True)
    for path in ("/v1/node", "/healthz"):
        response = http.get(path, headers=[(b"Authorization", given.encode("latin-1"))])
        check_problem(response, 401, "unauthenticated")
        assert challenge(response) == f'Bearer realm="holdfast", error="{error}"'


def test_scopes(shared_daemon: Daemon) -> None:
    """Each route of the document, with each scope."""
    document = shared_daemon.http.get("/openapi.json").json()
    scopes = [scope.value for scope in Scope]
    for have in scopes:
        http = shared_daemon.client(have)
        for path, method, operation in operations_of(document):
            url = path.replace("{dump_id}", NOTHING).replace("{operation_id}", NOTHING)
            # A content type that is not taken, so that what is allowed starts no work.
            headers = {"Content-Type": "image/png"}
            response = ask(http, method, url, content=b"x", headers=headers)
            needed = operation["x-scope"]
            if (
                path == "/v1/version"
                or have in ("admin", needed)
                or ("images" not in (have, needed) and scopes.index(have) >= scopes.index(needed))
            ):
                assert response.status_code not in (401, 403), (have, method, path)
            else:
                problem = check_problem(response, 403, "forbidden")
                assert f"`{needed}`" in problem["detail"]
                assert f'scope="{needed}"' in challenge(response)
    changing = {
        path: operation["x-scope"]
        for path, method, operation in operations_of(document)
        if method != "GET"
    }
    assert changing["/v1/tuning/plan"] == "read"
    assert {path for path, scope in changing.items() if scope == "admin"} == {
        "/v1/tuning/apply",
        "/v1/tuning/rollback",
        *(f"/v1/reimage/{what}" for what in ("stage", "arm", "disarm", "reboot", "confirm")),
        *(f"/v1/reimage/{what}" for what in ("rollback", "previous")),
        *(path for path in changing if path.startswith("/v1/transfers")),
    }


def test_the_body_of_who_may_not_is_not_looked_at(shared_daemon: Daemon) -> None:
    response = shared_daemon.client("read").post(
        "/v1/pagecache/dumps", content=b"{", headers={"Content-Type": "application/json"}
    )
    check_problem(response, 403, "forbidden")


def test_tokens_come_and_go_while_the_daemon_runs(daemon: Daemon) -> None:
    file = daemon.tokens.file
    secret = create(file, "deploy", Scope.OPERATE)
    http = daemon.client(tcp=True)
    headers = {"Authorization": f"Bearer {secret}"}
    assert http.get("/v1/node", headers=headers).status_code == 200
    started = http.post("/v1/pagecache/dumps", headers=headers)
    assert started.status_code == 202
    assert started.json()["actor"] == "token:deploy"
    assert http.get("/v1/node", headers={"authorization": f"bearer {secret}"}).status_code == 200
    revoke(file, "deploy")
    check_problem(http.get("/v1/node", headers=headers), 401, "unauthenticated")


def test_an_expired_token_says_so(daemon: Daemon) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1.2)
    secret = create(daemon.tokens.file, "brief", Scope.READ, soon)
    http = daemon.client(tcp=True)
    headers = {"Authorization": f"Bearer {secret}"}
    assert http.get("/v1/node", headers=headers).status_code == 200
    late = until(
        lambda: (
            response
            if (response := http.get("/v1/node", headers=headers)).status_code != 200
            else None
        ),
        what="the end of the token",
    )
    problem = check_problem(late, 401, "unauthenticated")
    assert "expired" in problem["detail"]


def test_a_damaged_token_file_lets_nobody_in(daemon: Daemon) -> None:
    http = daemon.client("admin")
    assert http.get("/v1/node").status_code == 200
    daemon.tokens.file.write_text("{")
    problem = check_problem(http.get("/v1/node"), 503, "unavailable")
    assert str(daemon.tokens.file) not in problem["detail"]
    until(lambda: "is damaged" in daemon.log, what="the reason in the log")
    assert daemon.http.get("/v1/node").status_code == 200


class TestLoopbackTrusted:
    @pytest.fixture
    def trusting(self, start_daemon: Any) -> Daemon:
        daemon: Daemon = start_daemon(loopback_trusted=True)
        return daemon

    def test_no_token_is_needed(self, trusting: Daemon) -> None:
        http = trusting.client(tcp=True)
        assert http.get("/v1/node").status_code == 200
        assert http.post("/v1/pagecache/dumps").json()["actor"] == "loopback"
        host = f"localhost:{trusting.port}"
        assert http.get("/v1/node", headers={"Host": host}).status_code == 200
        own = {"Host": host, "Origin": f"http://{host}"}
        assert http.get("/v1/node", headers=own).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "attacker.example"},
            {"Host": "127.0.0.1.attacker.example"},
            {"Host": "localhost.attacker.example:9918"},
            {"Host": "10.0.0.1"},
            {"Host": "127.0.0.1@attacker.example"},
            {"Host": "["},
            {"Host": ""},
            {"Origin": "https://attacker.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    def test_web_pages_are_refused(self, trusting: Daemon, headers: dict[str, str]) -> None:
        http = trusting.client(tcp=True)
        for response in (
            http.get("/v1/node", headers=headers),
            http.post("/v1/pagecache/dumps", headers=headers),
        ):
            check_problem(response, 403, "forbidden")

    def test_a_token_counts_all_the_same(self, trusting: Daemon) -> None:
        http = trusting.client("read")
        check_problem(http.post("/v1/pagecache/dumps"), 403, "forbidden")
        wrong = {"Authorization": "Bearer hf_wrong"}
        check_problem(http.get("/v1/node", headers=wrong), 401, "unauthenticated")


class TestAudit:
    def test_each_mutating_call_has_a_line(self, daemon: Daemon) -> None:
        secret = daemon.tokens.secrets["operate"]
        http = daemon.client("operate")
        dump = http.post("/v1/pagecache/dumps", json={"on_denied": "skip"}).json()
        http.get("/v1/pagecache/dumps")
        http.post("/v1/pagecache/loads", json={"dump": NOTHING})
        http.delete(f"/v1/pagecache/dumps/{NOTHING}")
        daemon.client("read").post("/v1/pagecache/dumps")
        daemon.client(tcp=True).post("/v1/pagecache/dumps", headers={"Authorization": "Bearer x"})
        lines = audit(daemon)
        assert [
            (line["who"], line["method"], line["path"], line["status"], line["operation"])
            for line in lines
        ] == [
            ("token:test-operate", "POST", "/v1/pagecache/dumps", 202, dump["id"]),
            ("token:test-operate", "POST", "/v1/pagecache/loads", 404, None),
            ("token:test-operate", "DELETE", f"/v1/pagecache/dumps/{NOTHING}", 404, None),
            ("token:test-read", "POST", "/v1/pagecache/dumps", 403, None),
        ]
        assert lines[0]["params"] == {"on_denied": "skip"}
        assert lines[1]["params"] == {"dump": NOTHING}
        assert lines[0]["remote"].startswith("127.0.0.1:")
        text = (daemon.state_dir / "audit.log").read_text()
        assert secret not in text
        mode = stat.S_IMODE((daemon.state_dir / "audit.log").stat().st_mode)
        assert mode == 0o600
        # A stranger is in the log of the daemon, and cannot fill the file.
        assert '"who": "unknown"' in daemon.log
        assert secret not in daemon.log

    def test_the_user_of_the_socket_is_known(self, daemon: Daemon) -> None:
        daemon.start("/v1/pagecache/dumps", {})
        (line,) = audit(daemon)
        assert line["who"] == f"uid:{os.getuid()}"
        assert line["remote"] == f"pid {os.getpid()}"
        assert line["transport"] == "unix"
