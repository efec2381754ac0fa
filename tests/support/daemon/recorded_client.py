"""What a client of one level of the API sends and reads: what every later one has to understand.

`python -m tests.support.daemon.recorded_client > tests/support/daemon/client_level_N.json`, with a
new level.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.daemon.api import served

_DEPTH = 6


def record(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the routes of an OpenAPI document: what may be sent, and the types of what is read."""
    return {
        f"{method.upper()} {path}": _route(document, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
    }


def broken(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return sentences on what a client that was recorded would no longer find."""
    return list(_broken(recorded, present))


def _broken(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> Iterator[str]:
    for route, was in recorded.items():
        found = present.get(route)
        if found is None:
            yield f"{route} is not there any more."
            continue
        if found["scope"] != was["scope"]:
            yield f"{route} needs {found['scope']} instead of {was['scope']}."
        for name in sorted(set(found["needed"]) - set(was["needed"])):
            yield f"{route} refuses a request without {name}."
        for what in ("sent", "read"):
            for name, kind in was[what].items():
                if found[what].get(name) != kind:
                    yield f"{route}: {what} {name} was {kind}, is {found[what].get(name)}."
        for status in sorted(set(was["statuses"]) - set(found["statuses"])):
            yield f"{route} does not answer {status} any more."


def _route(document: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Any]:
    sent: dict[str, str] = {}
    needed: list[str] = []
    for parameter in operation.get("parameters", ()):
        name = f"{parameter['in']}:{parameter['name']}"
        sent[name] = _kind(document, parameter["schema"])
        needed += [name] if parameter.get("required") else []
    body = operation.get("requestBody", {})
    for media in body.get("content", {}).values():
        schema = _resolved(document, media.get("schema", {}))
        sent |= dict(_members(document, schema, "body", _DEPTH))
        needed += [f"body.{name}" for name in schema.get("required", ())]
    read: dict[str, str] = {}
    statuses = [status for status in operation["responses"] if status < "400"]
    for status in statuses:
        content = operation["responses"][status].get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema is not None:
            read |= dict(_members(document, _resolved(document, schema), status, _DEPTH))
    return {
        "scope": operation["x-scope"],
        "needed": sorted(needed),
        "sent": dict(sorted(sent.items())),
        "statuses": sorted(statuses),
        "read": dict(sorted(read.items())),
    }


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name]
    return schema


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        return "|".join(sorted({_kind(document, each) for each in schema["anyOf"]}))
    return str(schema.get("type", "any"))


def _members(
    document: Mapping[str, Any], schema: Mapping[str, Any], name: str, depth: int
) -> Iterator[tuple[str, str]]:
    schema = _resolved(document, schema)
    for each in schema.get("anyOf", ()):
        yield from _members(document, each, name, depth)
    if depth and schema.get("type") == "array":
        yield from _members(document, schema.get("items", {}), f"{name}[]", depth - 1)
    for key, value in schema.get("properties", {}).items() if depth else ():
        yield f"{name}.{key}", _kind(document, value)
        yield from _members(document, value, f"{name}.{key}", depth - 1)


def main() -> None:
    """Print the record of the present version."""
    with (
        tempfile.TemporaryDirectory() as directory,
        served(Path(directory)) as server,
        server.http() as client,
    ):
        document = client.get("/openapi.json").json()
    json.dump(record(document), sys.stdout, indent=0, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
