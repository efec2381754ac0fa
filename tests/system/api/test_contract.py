"""What every route has in common: the document, problems, strictness, representations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon.contract import NOTHING, PROBLEM, ask, check_problem, operations_of
from tests.support.daemon.harness import Daemon

AT_ONCE = {
    "/v1/tuning/plan",
    "/v1/transfers/offers",
    *(f"/v1/reimage/{what}" for what in ("plan", "arm", "disarm", "reboot", "rollback/plan")),
}
"""Posts that start no operation."""
WITHOUT_TOKEN = ("/", "/healthz", "/readyz", "/metrics", "/v1/version")
"""The monitoring routes on the loopback interface only."""


@pytest.fixture(scope="module")
def document(shared_daemon: Daemon) -> dict[str, Any]:
    response = shared_daemon.http.get("/openapi.json")
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


class TestDocument:
    def test_it_has_every_route_of_the_contract(self, document: dict[str, Any]) -> None:
        assert {(path, method) for path, method, _ in operations_of(document)} == {
            ("/", "GET"),
            ("/healthz", "GET"),
            ("/readyz", "GET"),
            ("/metrics", "GET"),
            ("/openapi.json", "GET"),
            ("/v1/node", "GET"),
            ("/v1/operations", "GET"),
            ("/v1/operations/{operation_id}", "GET"),
            ("/v1/operations/{operation_id}/events", "GET"),
            ("/v1/tuning", "GET"),
            ("/v1/tuning/events", "GET"),
            ("/v1/tuning/profiles", "GET"),
            ("/v1/tuning/profiles/{name}", "GET"),
            ("/v1/tuning/plan", "POST"),
            ("/v1/tuning/apply", "POST"),
            ("/v1/tuning/rollback", "POST"),
            ("/v1/operations/{operation_id}/cancel", "POST"),
            ("/v1/version", "GET"),
            ("/v1/pagecache", "GET"),
            ("/v1/pagecache/history", "GET"),
            ("/v1/pagecache/dumps", "GET"),
            ("/v1/pagecache/dumps", "POST"),
            ("/v1/pagecache/dumps/{dump_id}", "GET"),
            ("/v1/pagecache/dumps/{dump_id}", "DELETE"),
            ("/v1/pagecache/dumps/{dump_id}/content", "GET"),
            ("/v1/pagecache/dumps/{dump_id}/content", "PUT"),
            ("/v1/pagecache/loads", "POST"),
            ("/v1/pagecache/evictions", "POST"),
            ("/v1/manifests", "GET"),
            ("/v1/manifests", "POST"),
            ("/v1/manifests/{manifest_id}", "GET"),
            ("/v1/manifests/{manifest_id}", "DELETE"),
            ("/v1/manifests/{manifest_id}/content", "GET"),
            ("/v1/manifests/{manifest_id}/content", "PUT"),
            ("/v1/manifests/{manifest_id}/verifications", "POST"),
            ("/v1/manifests/comparisons", "POST"),
            ("/v1/manifests/reports/{operation_id}", "GET"),
            ("/v1/memory", "GET"),
            ("/v1/memory/saves", "POST"),
            ("/v1/memory/saves/{save_id}", "DELETE"),
            ("/v1/memory/restores", "POST"),
            ("/v1/transfers", "GET"),
            ("/v1/transfers", "POST"),
            ("/v1/transfers/{transfer_id}", "GET"),
            ("/v1/transfers/{transfer_id}", "DELETE"),
            ("/v1/transfers/repairs", "POST"),
            ("/v1/transfers/offers", "GET"),
            ("/v1/transfers/offers", "POST"),
            ("/v1/transfers/offers/{offer_id}", "GET"),
            ("/v1/transfers/offers/{offer_id}", "DELETE"),
            ("/v1/reimage", "GET"),
            ("/v1/reimage/plan", "POST"),
            ("/v1/reimage/stage", "POST"),
            ("/v1/reimage/arm", "POST"),
            ("/v1/reimage/disarm", "POST"),
            ("/v1/reimage/reboot", "POST"),
            ("/v1/reimage/confirm", "POST"),
            ("/v1/reimage/rollback", "POST"),
            ("/v1/reimage/rollback/plan", "POST"),
            ("/v1/reimage/previous", "DELETE"),
            ("/v1/images/{sha256}", "GET"),
            ("/v1/images/{sha256}/content", "GET"),
        }

    def test_each_operation_is_described(self, document: dict[str, Any]) -> None:
        found = list(operations_of(document))
        assert len({operation["operationId"] for *_, operation in found}) == len(found)
        tags = {tag["name"] for tag in document["tags"]}
        for path, method, operation in found:
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            assert set(operation["tags"]) <= tags, where
            assert operation["x-scope"] in ("read", "operate", "admin", "images"), where
            assert {"bearer": []} in operation["security"], where
            assert ({} in operation["security"]) == (path in WITHOUT_TOKEN), where

    def test_errors_are_problems_and_nothing_else(self, document: dict[str, Any]) -> None:
        for path, method, operation in operations_of(document):
            for code, response in operation["responses"].items():
                if code[0] in "45":
                    assert list(response["content"]) == [PROBLEM], f"{method} {path} {code}"
            assert {"401", "403", "406", "422", "429", "500", "503"} <= set(operation["responses"])
            assert (method == "POST" and path not in AT_ONCE) == ("202" in operation["responses"])
            if "202" in operation["responses"]:
                headers = operation["responses"]["202"]["headers"]
                assert {"Location", "Retry-After"} == set(headers)

    def test_all_references_lead_somewhere(self, document: dict[str, Any]) -> None:
        found = set(references(document))
        assert found
        for reference in found:
            target: Any = document
            for part in reference.removeprefix("#/").split("/"):
                assert part in target, reference
                target = target[part]

    def test_each_route_answers_as_documented(
        self, shared_daemon: Daemon, document: dict[str, Any]
    ) -> None:
        """With made-up ids and empty bodies: whatever comes back, the document must know it."""
        for path, method, operation in operations_of(document):
            url = re.sub(r"{\w+}", NOTHING, path)
            content = b"{}" if method == "POST" else b"no record" if method == "PUT" else None
            kind = "application/zstd" if method == "PUT" else "application/json"
            headers = {"Content-Type": kind} if content else {}
            response = ask(shared_daemon.http, method, url, content=content, headers=headers)
            known = operation["responses"].get(str(response.status_code))
            assert known is not None, (method, path, response.status_code, response.text)
            if response.content:
                media_type = response.headers["content-type"].partition(";")[0]
                assert media_type in known["content"], (method, path)

    def test_each_route_refuses_what_it_does_not_know(
        self, shared_daemon: Daemon, document: dict[str, Any]
    ) -> None:
        for path, method, operation in operations_of(document):
            url = re.sub(r"{\w+}", NOTHING, path)
            response = shared_daemon.http.request(method, url, params={"nonsense": "1"})
            problem = check_problem(response, 422, "unknown-field")
            assert problem["errors"][0]["field"] == "nonsense"
            if "requestBody" in operation and method == "POST":
                response = shared_daemon.http.request(
                    method, url, json={"paths": ["/x"], "nonsense": 1}
                )
                fields = [error["field"] for error in response.json()["errors"]]
                assert response.status_code == 422
                assert "nonsense" in fields

    def test_each_get_answers_head(self, shared_daemon: Daemon, document: dict[str, Any]) -> None:
        for path, method, _ in operations_of(document):
            if method != "GET":
                continue
            url = re.sub(r"{\w+}", NOTHING, path)
            got, head = ask(shared_daemon.http, "GET", url), shared_daemon.http.head(url)
            assert head.status_code == got.status_code, path
            assert head.content == b""
            assert head.headers["content-type"] == got.headers["content-type"], path


class TestProblems:
    def test_no_such_path(self, shared_daemon: Daemon) -> None:
        http = shared_daemon.http
        for path in ("/nope", "/v1", "/v1/", "/v1/node/", "/v1/pagecache/dumps/a/b/c", "/docs"):
            check_problem(http.get(path), 404, "not-found")
        problem = check_problem(http.get("/v1/a%0ab%ffc"), 404, "not-found")
        assert "\n" not in problem["detail"]

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/node", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("PUT", "/v1/pagecache/dumps", "GET, HEAD, POST"),
            ("POST", f"/v1/pagecache/dumps/{NOTHING}", "GET, HEAD, DELETE"),
            ("POST", f"/v1/pagecache/dumps/{NOTHING}/content", "GET, HEAD, PUT"),
            ("GET", "/v1/pagecache/loads", "POST"),
            ("GET", "/v1/manifests/comparisons", "POST"),
            ("DELETE", "/v1/manifests/comparisons", "POST"),
            ("OPTIONS", "/v1/pagecache/loads", "POST"),
            ("BREW", "/v1/operations", "GET, HEAD"),
        ],
    )
    def test_method_not_allowed(
        self, shared_daemon: Daemon, method: str, path: str, allowed: str
    ) -> None:
        response = shared_daemon.http.request(method, path)
        check_problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == allowed

    @pytest.mark.parametrize(
        ("path", "field", "message"),
        [
            ("/v1/operations?limit=0", "limit", "must be at least 1"),
            ("/v1/operations?limit=many", "limit", "must be a whole number"),
            ("/v1/operations?state=done", "state", "must be 'queued', 'running'"),
            ("/v1/operations?limit=1&limit=2", "limit", "more than once"),
            ("/v1/operations?limt=1", "limt", "did you mean `limit`?"),
            ("/v1/operations/x?wait=301", "wait", "must be at most 300"),
            ("/v1/operations/x?wait=nan", "wait", "must be a finite number"),
            ("/v1/pagecache?depth=-1", "depth", "must be at least 0"),
            ("/v1/pagecache?path=", "path", "must have at least one character"),
            ("/v1/pagecache?by=tables", "by", "must be 'table', 'index' or 'file-kind'"),
            ("/v1/pagecache/history?hours=0", "hours", "must be at least 1"),
            ("/v1/node?a=1", "a", "is not a known query parameter"),
        ],
    )
    def test_query(self, shared_daemon: Daemon, path: str, field: str, message: str) -> None:
        response = shared_daemon.http.get(path)
        problem = check_problem(response, 422, response.json()["type"].rpartition("/")[2])
        (error,) = problem["errors"]
        assert error["field"] == field
        assert message in error["message"]

    @pytest.mark.parametrize(
        ("body", "field", "message"),
        [
            ('{"paths": []}', "paths", "must have at least one ent"),
            ('{"paths": "x"}', "paths", "must be a list"),
            ('{"paths": [1]}', "paths.0", "must be a string"),
            ('{"paths": ["x", "\\ud800"]}', "paths.1", "must be valid UTF-8 text"),
            ("{}", "paths", "is required"),
            ("[]", "body", "must be a JSON object"),
            ("null", "body", ""),
            ("", "body", "is required"),
            ('{"paths": ["/x"], "sync": "maybe"}', "sync", "must be true or false"),
            ('{"paths": ["/x"], "sync": "yes"}', "sync", "must be true or false"),
            ('{"paths": ["/x"], "sync": 1}', "sync", "must be true or false"),
            ('{"paths": ["/x"], "synk": true}', "synk", "did you mean `sync`?"),
            ('{"paths": ', "body", "is not valid JSON"),
            ("\xff", "body", "is not valid JSON"),
            ("[" * 100_000, "body", "is not valid JSON"),
            ('{"paths": [' + "9" * 5000 + "]}", "body", "is not valid JSON"),
        ],
    )
    def test_body(self, shared_daemon: Daemon, body: str, field: str, message: str) -> None:
        response = shared_daemon.http.post(
            "/v1/pagecache/evictions",
            content=body.encode("latin-1"),
            headers={"Content-Type": "application/json"},
        )
        slug = "unknown-field" if field == "synk" else "invalid-request"
        problem = check_problem(response, 422, slug)
        assert message in next(
            error["message"] for error in problem["errors"] if error["field"] == field
        )

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/json; charset=utf-16"},
            {"Content-Type": "text/json"},
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            {},
        ],
    )
    def test_media_type_of_the_body(self, shared_daemon: Daemon, headers: dict[str, str]) -> None:
        response = shared_daemon.http.post(
            "/v1/pagecache/evictions", content=b'{"paths": ["/"]}', headers=headers
        )
        check_problem(response, 415, "unsupported-media-type")

    @pytest.mark.parametrize("path", ["/v1/node", "/healthz", "/openapi.json", "/v1/operations"])
    def test_not_acceptable(self, shared_daemon: Daemon, path: str) -> None:
        response = shared_daemon.http.get(path, headers={"Accept": "image/png, text/*;q=0.5"})
        problem = check_problem(response, 406, "not-acceptable")
        assert "application/json" in problem["detail"]

    def test_json_is_what_comes_for_who_likes_everything(self, shared_daemon: Daemon) -> None:
        response = shared_daemon.http.get("/v1/node", headers={"Accept": "text/html, */*;q=0.1"})
        assert response.headers["content-type"] == "application/json"
        assert response.text.startswith('{\n  "hostname"')
        assert response.text.endswith("}\n")


class TestSizes:
    LIMIT = 1 << 20

    def test_a_body_that_says_it_is_too_large(self, shared_daemon: Daemon) -> None:
        response = shared_daemon.http.post(
            "/v1/pagecache/evictions",
            content=json.dumps({"paths": ["x" * self.LIMIT]}),
            headers={"Content-Type": "application/json"},
        )
        problem = check_problem(response, 413, "too-large")
        assert str(self.LIMIT) in problem["detail"]

    def test_a_body_in_chunks_that_turns_out_too_large(self, shared_daemon: Daemon) -> None:
        response = shared_daemon.http.post(
            "/v1/pagecache/evictions",
            content=(b" " * 65536 for _ in range(20)),
            headers={"Content-Type": "application/json"},
        )
        check_problem(response, 413, "too-large")

    def test_a_body_as_large_as_allowed(self, shared_daemon: Daemon) -> None:
        body = json.dumps({"paths": []})
        response = shared_daemon.http.post(
            "/v1/pagecache/evictions",
            content=body + " " * (self.LIMIT - len(body)),
            headers={"Content-Type": "application/json"},
        )
        check_problem(response, 422, "invalid-request")

    def test_a_record_has_its_own_limit(self, start_daemon: Any, document: dict[str, Any]) -> None:
        daemon: Daemon = start_daemon(max_record_bytes=2_000_000)
        path = f"/v1/pagecache/dumps/{NOTHING}/content"
        dumps = daemon.state_dir / "dumps"
        for content in (b"x" * 2_000_001, (b"x" * 100_000 for _ in range(30))):
            check_problem(daemon.http.put(path, content=content), 413, "too-large")
        check_problem(daemon.http.put(path, content=b"x" * 1_900_000), 422, "bad-record")
        assert not list(dumps.iterdir())


class TestRoot:
    def test_for_a_terminal(self, shared_daemon: Daemon) -> None:
        response = shared_daemon.http.get("/")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert str(shared_daemon.root) in response.text
        assert f"curl --unix-socket {shared_daemon.socket} http://" in response.text
        over_tcp = shared_daemon.client("read").get("/").text
        assert f"curl {shared_daemon.url}/v1/pagecache" in over_tcp

    def test_for_a_browser(self, shared_daemon: Daemon) -> None:
        accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        response = shared_daemon.http.get("/", headers={"Accept": accept})
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        page = response.text
        assert page.startswith("<!doctype html>")
        # Nothing comes from elsewhere.
        assert not re.search(r"(src|href)=\"?(https?:)?//", page)
        for link in re.findall(r'href="(?!data:)([^"]+)"', page):
            assert shared_daemon.http.get(link).status_code == 200


class TestMonitoring:
    def test_health(self, shared_daemon: Daemon) -> None:
        assert shared_daemon.http.get("/healthz").json() == {"status": "ok"}
        assert shared_daemon.http.get("/readyz").json() == {"status": "ready"}

    def test_metrics_use_route_templates(self, shared_daemon: Daemon) -> None:
        http = shared_daemon.http
        http.get(f"/v1/operations/{NOTHING}")
        http.get("/v1/no/such/route")
        http.get("/v1/pagecache/loads")
        http.head("/v1/node")
        http.request("BREW", "/v1/node")
        text = http.get("/metrics").text
        for labels in (
            'code="404",method="GET",route="/v1/operations/{operation_id}"',
            'code="404",method="GET",route="unmatched"',
            'code="405",method="GET",route="/v1/pagecache/loads"',
            'code="200",method="HEAD",route="/v1/node"',
            'code="405",method="other",route="/v1/node"',
        ):
            assert f"holdfast_http_requests_total{{{labels}}}" in text
        assert NOTHING not in text
        assert "no/such" not in text

    def test_metrics_in_both_formats(self, shared_daemon: Daemon) -> None:
        http = shared_daemon.http
        plain = http.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        openmetrics = http.get("/metrics", headers={"Accept": accept})
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")


def test_answers_are_not_kept_by_others(shared_daemon: Daemon) -> None:
    for path in ("/v1/node", "/nope", "/"):
        headers = shared_daemon.http.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
