"""Every route of the document, asked by those who may not: refused, and nothing happens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from holdfast.api.http.callers.tokens import Scope, create, revoke
from tests.oracles.residency import resident_pages
from tests.support.daemon.contract import ask, check_problem, operations_of
from tests.support.daemon.harness import Daemon, Tokens
from tests.support.machine.disk import write_file

OPEN = ("/healthz", "/readyz", "/metrics", "/v1/version")
"""What needs no token on loopback; a token that is wrong is refused there all the same."""


def expired(tokens: Tokens) -> str:
    """Make a token and move its end into the past, since none is made that has expired."""
    later = datetime.now(UTC) + timedelta(hours=1)
    secret = create(tokens.file, "expired", Scope.ADMIN, later)
    content = json.loads(tokens.file.read_text())
    content["tokens"][-1]["expires_at"] = "2020-01-01T00:00:00Z"
    tokens.file.write_text(json.dumps(content))
    return secret


def revoked(tokens: Tokens) -> str:
    secret = create(tokens.file, "revoked", Scope.ADMIN)
    revoke(tokens.file, "revoked")
    return secret


class Target:
    """A daemon with something to lose, and a snapshot of all of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.file = write_file(daemon.root / "d" / "f", 100_000)
        self.known = {
            "dump_id": daemon.run("/v1/pagecache/dumps", {})["dump"],
            "manifest_id": daemon.run("/v1/manifests", {})["manifest"],
        }
        verified = daemon.start(f"/v1/manifests/{self.known['manifest_id']}/verifications", {})
        self.known["operation_id"] = daemon.finish(verified)["id"]
        self.known["name"] = "base"

    def requests(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        """Give method, address, what else to send, and the description of each route.

        They name what exists, and have bodies that are taken: only a permission is missing.
        """
        document = self.daemon.http.get("/openapi.json").json()
        for path, method, operation in operations_of(document):
            url = re.sub(r"{(\w+)}", lambda match: self.known.get(match[1], "x"), path)
            options: dict[str, Any] = {}
            if method == "POST":
                options["json"] = self._body(operation, document)
            elif method == "PUT":
                options["content"] = b"record"
            yield method, url, options, operation

    def _body(self, operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        name = re.search(r'schemas/(\w+)"', json.dumps(schema))
        assert name is not None
        model = document["components"]["schemas"][name[1]]
        values = {"paths": [str(self.file)], "left": "latest", "right": "latest", "profile": "base"}
        return {field: values[field] for field in model.get("required", []) if field in values}

    def look(self) -> dict[str, object]:
        """Return everything that a request could have changed."""
        files = sorted(path for path in self.daemon.state_dir.rglob("*") if path.is_file())
        return {
            "operations": self.daemon.http.get("/v1/operations").json(),
            "tuning": self.daemon.http.get("/v1/tuning").json()["history"],
            "resident": resident_pages(self.file),
            "state": {
                str(file): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in files
                if file.name != "audit.log"
            },
        }


@pytest.fixture(scope="module")
def target(shared_daemon: Daemon) -> Target:
    return Target(shared_daemon)


SECRETS: dict[str, Callable[[Tokens], str | None]] = {
    "none": lambda _: None,
    "unknown": lambda _: "hf_" + "A" * 43,
    "half": lambda tokens: tokens.secrets["admin"][:-1],
    "expired": expired,
    "revoked": revoked,
}


@pytest.mark.parametrize("kind", SECRETS)
def test_without_a_token_that_counts(target: Target, kind: str) -> None:
    tokens = target.daemon.tokens
    secret = SECRETS[kind](tokens)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    audit = (target.daemon.state_dir / "audit.log").read_bytes()
    before = target.look()
    # An address of its own for each kind, as those that fail too often have to wait.
    source = f"127.0.1.{1 + list(SECRETS).index(kind)}"
    transport = httpx.HTTPTransport(local_address=source)
    asked = 0
    with httpx.Client(
        base_url=target.daemon.url, transport=transport, headers=headers, trust_env=False
    ) as http:
        for method, url, options, _ in target.requests():
            response = ask(http, method, url, **options)
            if secret is None and url in OPEN:
                assert response.status_code == 200
                continue
            check_problem(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"].startswith('Bearer realm="holdfast"')
            asked += 1
    assert asked > 30
    assert target.look() == before
    # Strangers do not get into the file.
    assert (target.daemon.state_dir / "audit.log").read_bytes() == audit


@pytest.mark.parametrize("have", ["read", "operate"])
def test_with_too_small_a_scope(target: Target, have: str) -> None:
    scopes = [scope.value for scope in Scope]
    before = target.look()
    http = target.daemon.client(have)
    refused = 0
    for method, url, options, operation in target.requests():
        if scopes.index(operation["x-scope"]) <= scopes.index(have):
            continue
        problem = check_problem(ask(http, method, url, **options), 403, "forbidden")
        assert f"`{operation['x-scope']}`" in problem["detail"]
        refused += 1
    assert refused >= (10 if have == "read" else 2)
    assert target.look() == before
