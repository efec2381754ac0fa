"""What one request may cost is bounded, before anybody knows who sent it and after."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.support.daemon.contract import check_problem
from tests.support.daemon.harness import Daemon, Tokens, daemons

SLOW = {"HOLDFAST_TEST_SLOW_CALLBACK_SECONDS": "0.02"}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def watched(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in whose event loop nothing may take longer than 20 ms."""
    base = tmp_path_factory.mktemp("bounds")
    with daemons(base, tokens) as start:
        daemon = start(environment=SLOW)
        yield daemon
        slow = [line for line in daemon.log.splitlines() if "slow callback" in line]
        assert not slow, "\n".join(slow)


def raw(daemon: Daemon, data: bytes, *, tcp: bool = True) -> bytes:
    """Send bytes and return the whole response until the daemon hangs up."""
    if tcp:
        connection = socket.create_connection(("127.0.0.1", daemon.port), 20)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(daemon.socket))
    answer = b""
    with connection:
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            pass  # it does not read what it has refused
    return answer


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD.replace(b"healthz", b"healthz?" + b"a" * 8192), "request line"),
        (HEAD.replace(b"healthz", b"h" * 9000), "request line"),
        (b"GET /" + b"a" * 9000, "request line"),
        (HEAD + b"".join(b"a%d: b\r\n" % n for n in range(101)) + b"\r\n", "100 headers"),
        (HEAD + b"".join(b"a%d: b\n" % n for n in range(4000)) + b"\n", "headers"),
        (HEAD + b"".join(b"a%d: %s\r\n" % (n, b"b" * 900) for n in range(20)) + b"\r\n", "16384"),
        (HEAD + b"a: " + b"b" * 17000, "16384"),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "together"),
    ],
)
def test_a_head_beyond_the_bounds_is_refused(
    watched: Daemon, data: bytes, reason: str, tcp: bool
) -> None:
    answer = raw(watched, data, tcp=tcp)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert reason in json.loads(body)["detail"]


def test_a_head_within_the_bounds_is_taken(watched: Daemon) -> None:
    lines = b"".join(b"a%d: %s\r\n" % (n, b"b" * 150) for n in range(90))
    assert raw(watched, HEAD + lines + b"\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/readyz", "/v1/node"])
def test_query_parameters_of_strangers_cost_nothing(watched: Daemon, path: str) -> None:
    with httpx.Client(base_url=watched.url, headers={"Accept": "text/html, */*"}) as http:
        many = http.get(f"{path}?{'&'.join(f'{n:x}' for n in range(1500))}")
        assert many.status_code in (401, 422)
        assert len(many.content) < 1000
        some = http.get(f"{path}?{'&'.join(f'{n:x}=' for n in range(16))}")
        assert some.status_code in (401, 422)
        assert len(some.json().get("errors") or []) <= 10
        assert len(some.content) < 8000
    known = watched.http.get("/v1/operations", params=[(f"p{n}", "") for n in range(17)])
    check_problem(known, 422, "invalid-request")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"f{number}": 1 for number in range(80_000)}),
        json.dumps({"include": [1] * 9_900}),
        json.dumps({"include": [[]] * 200_000}),
        json.dumps({"exclude": ["*"] * 9000}),
        json.dumps({f"f{number}": 1 for number in range(300)}),
        json.dumps({"x" * 4000: 1}),
        json.dumps({"root": "r" * 900_000}),
        "[" * 900_000,
        "9" * 900_000,
        '{"a": "' + "\\u0000" * 150_000,
    ],
    ids=lambda body: f"{body[:12]}…{len(body)}",
)
def test_a_body_of_nonsense_is_refused_cheaply(watched: Daemon, body: str) -> None:
    response = watched.http.post(
        "/v1/manifests", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422, response.text[:500]
    problem = response.json()
    assert len(problem.get("errors") or []) <= 10
    assert len(response.content) < 16_000


def test_many_errors_are_counted(watched: Daemon) -> None:
    response = watched.http.post("/v1/manifests", json={f"f{number}": 1 for number in range(60)})
    problem = check_problem(response, 422, "unknown-field")
    assert len(problem["errors"]) == 10
    assert problem["detail"].endswith("and 55 more.")


def test_a_large_body_that_is_right_is_taken(watched: Daemon) -> None:
    exclude = [f"name-{number}-{'x' * 40}" for number in range(900)]
    result = watched.run("/v1/manifests", {"exclude": exclude})
    assert result["manifest"]


@pytest.mark.parametrize("name", ["Content-Type", "Accept"])
def test_media_types_are_short(watched: Daemon, name: str) -> None:
    for value in ('application/json; a=";' * 600, "a/b," * 3000, ";" * 12_000):
        response = watched.http.post("/v1/manifests", content="{}", headers={name: value})
        assert response.status_code in (406, 415), response.text
        assert len(response.content) < 2000


def test_patterns_are_bounded_together(watched: Daemon) -> None:
    for body in (
        {"include": ["?" * 4000] * 20},
        {"include": ["?" * 4000] * 10, "exclude": ["{a,b}" * 800] * 10},
    ):
        response = watched.http.post("/v1/manifests", json=body)
        problem = check_problem(response, 422, "invalid-request")
        assert "65536" in problem["detail"]


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/manifests HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\n" + b"1\r\n \r\n" * 5_000,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 5_000,
    ],
    ids=["chunks", "pipelined", "chunks-nobody-reads"],
)
def test_what_is_sent_at_once_is_taken_in_turns(watched: Daemon, data: bytes) -> None:
    for tcp in (True, False):
        connection = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        with connection:
            connection.settimeout(1)
            connection.connect(("127.0.0.1", watched.port) if tcp else str(watched.socket))
            with suppress(TimeoutError, ConnectionError):  # it need not take all of it
                connection.sendall(data)
            assert watched.http.get("/healthz").status_code == 200
