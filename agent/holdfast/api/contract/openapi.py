"""The OpenAPI document: what the framework finds in the routes, completed and corrected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI

from holdfast.api.contract.routing import Router, spec_of
from holdfast.api.http.callers.auth import OPEN, OPEN_ON_LOOPBACK
from holdfast.api.http.rendering import PROBLEM_JSON
from holdfast.operations.kinds import Registry
from holdfast.operations.model import FieldError, Problem

SUMMARY = "An agent on a stateful server: everything may be replaced except its state."
DESCRIPTION = """\
Long work is an *operation*: the call that starts one returns 202 with its `Location`; read it,
wait for its end (`?wait=30`) or follow it (`/events`). What is wrong with a request is an HTTP
error; what goes wrong later is the `error` of a failed operation.

Every error is a problem of RFC 9457. Unknown fields and query parameters are refused. HEAD works
wherever GET does.

The unix socket is trusted through its file mode. TCP needs a bearer token with a scope: `read`,
`operate` (which includes it), or `admin` (which includes both); each operation's `x-scope` says
which. `/healthz`, `/readyz` and `/metrics` need none from the machine itself, and `/v1/version`
needs none from anywhere. Ignore members of answers that you do not know.
"""
_SECURITY = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token made by `holdfast token create`. Not needed on the unix socket.",
    }
}


def tags_of(routers: Sequence[Router]) -> list[dict[str, str]]:
    """Describe the tags of routers, in their order."""
    return [{"name": router.tag, "description": router.about} for router in routers if router.about]


def install(app: FastAPI, routers: Sequence[Router], kinds: Registry) -> None:
    """Make `app.openapi()` return the whole contract, with these kinds of operation."""
    document: dict[str, Any] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal document
        if document is None:
            document = _build(app, routers, kinds)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI, routers: Sequence[Router], kinds: Registry) -> dict[str, Any]:
    # Slow to import, and the daemon starts without them.
    from fastapi.openapi.utils import get_openapi  # noqa: PLC0415

    from holdfast.api.contract.kinds import name_apart, type_operations  # noqa: PLC0415

    routes = [route for router in routers for route in router.routes]
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=routes,
        tags=app.openapi_tags,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (FieldError, Problem):
        schemas[model.__name__] = model.model_json_schema(
            mode="serialization", ref_template="#/components/schemas/{model}"
        )
        schemas[model.__name__].pop("$defs", None)
    type_operations(schemas, kinds)
    components["securitySchemes"] = _SECURITY
    endpoints = {route.operation_id: route.endpoint for route in routes}
    for path, operation in _operations(document):
        declared = spec_of(endpoints[operation["operationId"]])
        operation["x-scope"] = declared.scope.value
        operation["security"] = [{"bearer": []}]
        if path in OPEN_ON_LOOPBACK or (path in OPEN and declared.open_types):
            operation["security"].append({})
        _only_problems(operation)
    return name_apart(document)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _only_problems(operation: dict[str, Any]) -> None:
    """Drop what the framework adds to errors of its own accord."""
    for code, response in operation["responses"].items():
        if code[0] in "45":
            content = response["content"]
            response["content"] = {PROBLEM_JSON: content[PROBLEM_JSON]}
        elif code in ("204", "304"):
            response.pop("content", None)
