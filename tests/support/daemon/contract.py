"""Requests as the OpenAPI document describes them, and problems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx

PROBLEM = "application/problem+json"


NOTHING = "01JDZZZZZZZZZZZZZZZZZZZZZZ"


def check_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Check all that is true of every problem, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    assert response.text.endswith("}\n")
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert re.match(r"[A-Z`/].*[.?]$", problem["detail"], re.DOTALL), problem["detail"]
    for error in problem.get("errors", []):
        assert set(error) == {"field", "message"}
    return problem


def ask(http: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request; of a response without an end, take the first piece."""
    with http.stream(method, url, **options) as response:
        endless = method == "GET" and url == "/v1/tuning/events" and response.status_code == 200
        content = next(response.iter_bytes()) if endless else response.read()
        headers = {k: v for k, v in response.headers.items() if k != "content-length"}
        return httpx.Response(response.status_code, headers=headers, content=content)


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation
