"""Writes holdfast_client/routes/ from the daemon's own OpenAPI document: `make client-routes`.

A new route gets a method without any change here; a line in `_NAMES` gives it a better name.
"""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROUTES = Path(__file__).parent / "holdfast_client" / "routes"
_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_Schema = Mapping[str, Any]

_NAMES = {
    "getRoot": "node.overview",
    "getHealth": "node.health",
    "getReadiness": "node.readiness",
    "getMetrics": "node.metrics",
    "getOpenApi": "node.openapi",
    "getVersion": "node.version",
    "getNode": "node.show",
    "listOperations": "operations.list",
    "getOperation": "operations.get",
    "watchOperation": "operations.events",
    "cancelOperation": "operations.cancel",
    "getPageCache": "pagecache.show",
    "createDump": "pagecache.dump",
    "createLoad": "pagecache.load",
    "createEviction": "pagecache.evict",
    "getDumpContent": "pagecache.download_dump",
    "putDumpContent": "pagecache.upload_dump",
    "createManifest": "manifests.build",
    "createComparison": "manifests.compare",
    "createVerification": "manifests.verify",
    "listManifests": "manifests.list",
    "getManifest": "manifests.get",
    "deleteManifest": "manifests.delete",
    "getManifestReport": "manifests.report",
    "getManifestContent": "manifests.download",
    "putManifestContent": "manifests.upload",
    "getTuning": "tuning.show",
    "planTuning": "tuning.plan",
    "applyTuning": "tuning.apply",
    "rollbackTuning": "tuning.rollback",
    "watchTuning": "tuning.events",
    "getReimage": "reimage.show",
    "planReimage": "reimage.plan",
    "stageReimage": "reimage.stage",
    "armReimage": "reimage.arm",
    "disarmReimage": "reimage.disarm",
    "rebootReimage": "reimage.reboot",
    "confirmReimage": "reimage.confirm",
    "rollbackReimage": "reimage.rollback",
    "planReimageRollback": "reimage.plan_rollback",
    "forgetPreviousSystem": "reimage.forget_previous",
    "listTransferOffers": "transfers.list_offers",
    "createTransferOffer": "transfers.offer",
    "getTransferOffer": "transfers.get_offer",
    "revokeTransferOffer": "transfers.revoke_offer",
    "createTransferRepair": "transfers.repair",
    "listTransfers": "transfers.list",
    "createTransfer": "transfers.pull",
    "getTransfer": "transfers.get",
    "forgetTransfer": "transfers.forget",
}
_IMPATIENT = frozenset({"getHealth", "getReadiness"})
"""A refusal is what these are asked for."""
_SECONDS = {"armReimage": 600.0, "rebootReimage": 3600.0}
"""How long an answer may take, where that is up to an operator's commands."""
_TITLES = {
    "node": "What a node is, and whether it can work.",
    "operations": "Long work of a node.",
    "pagecache": "The page cache: dump, load, evict.",
    "manifests": "Digests of every file: build, verify, compare.",
    "tuning": "Tuning profiles: plan, apply, roll back.",
    "reimage": "Replacing the system disk of a node.",
    "transfers": "Moving a directory of state from node to node.",
}
_REQUESTS = {"StageRequest": ("descriptor",)}
"""Bodies that have a type of their own, without these members."""


_PLAIN = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
    "array": "list[Any]",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method."""

    name: str
    annotation: str
    required: bool


@dataclass(frozen=True)
class Route:
    """A route, and the method that calls it."""

    operation_id: str
    method: str
    path: str
    group: str
    name: str
    summary: str
    call: str
    """The method of `Calls` that makes it."""
    returns: str
    ids: tuple[str, ...] = ()
    query: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] = ()
    accept: tuple[str, ...] = ()


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the daemon in this checkout, with its kinds of operation."""
    from tests.support.daemon.api import served  # noqa: PLC0415 - the rest needs no daemon

    with TemporaryDirectory() as name, served(Path(name)) as server, server.http() as http:
        answer: dict[str, Any] = http.get("/openapi.json").json()
        return answer


def routes(doc: _Schema) -> Iterator[Route]:
    """Yield the routes of a document."""
    schemas = doc["components"]["schemas"]
    for path, methods in doc["paths"].items():
        for method, operation in methods.items():
            yield _route(method.upper(), path, operation, schemas)


def _route(method: str, path: str, operation: _Schema, schemas: _Schema) -> Route:
    name = operation["operationId"]
    fallback = f"{[*path.split('/'), '', '', ''][2] or 'node'}.{_snake(name)}"
    group, _, called = _NAMES.get(name, fallback).partition(".")
    parameters = operation.get("parameters", ())
    query = tuple(
        Parameter(
            each["name"], _type(each["schema"], schemas, sent=True), each.get("required", False)
        )
        for each in parameters
        if each["in"] == "query"
    )
    call, returns, accept = _answer(operation["responses"], schemas)
    content = operation.get("requestBody", {}).get("content", {})
    if "application/octet-stream" in content:
        call = "upload"
    elif path == "/v1/operations/{operation_id}/events":
        call = "watch"
    return Route(
        operation_id=name,
        method=method,
        path=path,
        group=group,
        name=called,
        summary=operation["summary"],
        call=call,
        returns=returns,
        ids=tuple(each["name"] for each in parameters if each["in"] == "path"),
        query=query,
        body=tuple(_members(content.get(_JSON, {}).get("schema", {}), schemas)),
        accept=accept,
    )


def _answer(responses: _Schema, schemas: _Schema) -> tuple[str, str, tuple[str, ...]]:
    """Return how a route is called, what that returns, and its media types if there is a choice."""
    types: dict[str, Any] = {}
    for status in ("202", "201", "200"):
        types |= responses.get(status, {}).get("content", {})
    if not types:
        return "nothing", "None", ()
    if "text/event-stream" in types:
        return "events", "Members", ()
    if _JSON not in types:
        text = all(each.get("schema", {}).get("format") != "binary" for each in types.values())
        plain = text and "text/plain" in types and _NDJSON not in types
        return ("text", "str", tuple(types)) if plain else ("download", "bytes", tuple(types))
    reference = types[_JSON]["schema"]
    if reference.get("$ref", "").endswith("/Operation"):
        return "operation", "Operation", ()
    kind = "either" if "202" in responses else "json"
    return kind, _type(reference, schemas, sent=False), ()


def _members(schema: _Schema, schemas: _Schema) -> Iterator[Parameter]:
    body = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    needed = body.get("required", ())
    for name, member in body.get("properties", {}).items():
        nullable = {"type": "null"} in member.get("anyOf", ())
        if nullable and member.get("default") is not None:
            raise SystemExit(f"{body['title']}.{name}: None would stand for two things")
        yield Parameter(name, _type(member, schemas, sent=True), name in needed)


def _type(schema: _Schema, schemas: _Schema, *, sent: bool) -> str:
    """Return the annotation of a value that is sent or received; what is received may grow."""
    if "$ref" in schema:
        return _referred(schema["$ref"].rpartition("/")[2], schemas, sent=sent)
    choices = schema.get("anyOf", schema.get("oneOf"))
    if choices is not None:
        options = dict.fromkeys(_type(each, schemas, sent=sent) for each in choices)
        kept = [each for each in options if each != "None"]
        return " | ".join(kept + ["None"] * ("None" in options))
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values and sent:
        return f"Literal[{', '.join(map(repr, values))}]"
    kind = schema.get("type")
    if kind == "array" and "items" in schema:
        return f"{'Sequence' if sent else 'list'}[{_type(schema['items'], schemas, sent=sent)}]"
    if kind == "object":
        extra = schema.get("additionalProperties")
        value = _type(extra, schemas, sent=sent) if isinstance(extra, dict) and extra else "Any"
        return f"{'Mapping' if sent else 'dict'}[str, {value}]"
    return _PLAIN.get(str(kind), "Any")


def _referred(name: str, schemas: _Schema, *, sent: bool) -> str:
    target = schemas[name]
    if "properties" not in target and "oneOf" not in target:
        return _type(target, schemas, sent=sent)
    return "Members" if sent or "oneOf" in target else f"answers.{name}"


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _method(route: Route, *, waits: bool) -> str:
    """Return the source of a method; `waits` for one that is awaited."""
    generator = route.call in ("watch", "events")
    returns = _returned(route, waits=waits)
    ids = [f"{each}: str" for each in route.ids]
    options = [_declared(each) for each in sorted(_options(route), key=_optional)]
    content = ["content: Content"] if route.call == "upload" else []
    star = ["*"] if options else []
    given = ", ".join(["self", *ids, *content, *star, *options])
    awaited = waits and not generator and route.call != "download"
    head = "async def" if awaited else "def"
    source = f"    {head} {route.name}({given}) -> {returns}:\n"
    summary = route.summary if route.summary.endswith("?") else f"{route.summary.rstrip('.')}."
    source += f'        """{summary}"""\n'
    wait = "await " if awaited else ""
    back = "" if route.call == "nothing" else "return "
    result = f"{wait}self._call.{route.call}({', '.join(_arguments(route))})"
    if route.call in ("json", "either", "upload"):
        # What is received is not checked here: newer nodes may send more.
        return (
            source
            + f"        answer: {_plain(route, waits=waits)} = {result}\n        return answer\n"
        )
    return source + f"        {back}{result}\n"


def _options(route: Route) -> Iterator[Parameter]:
    yield from route.query
    yield from route.body
    if route.call == "download":
        yield Parameter("accept", f"Literal[{', '.join(map(repr, route.accept))}]", required=False)
    if route.method == "POST":
        yield Parameter("idempotency_key", "str | None", required=False)


def _optional(parameter: Parameter) -> bool:
    return not parameter.required


def _declared(parameter: Parameter) -> str:
    if parameter.required:
        return f"{parameter.name}: {parameter.annotation}"
    annotation = parameter.annotation.removesuffix(" | None")
    if annotation == "Any":
        return f"{parameter.name}: Any = None"
    return f"{parameter.name}: {annotation} | None = None"


def _plain(route: Route, *, waits: bool) -> str:
    if route.call == "either":
        return f"{route.returns} | {'AsyncOperation' if waits else 'Operation'}"
    return route.returns


def _returned(route: Route, *, waits: bool) -> str:
    many = "AsyncIterator" if waits else "Iterator"
    operation = "AsyncOperation" if waits else "Operation"
    if route.call == "watch":
        return f"{many}[{operation}]"
    if route.call == "events":
        return f"{many}[{route.returns}]"
    if route.call == "download":
        context = "AbstractAsyncContextManager" if waits else "AbstractContextManager"
        return f"{context}[{many}[bytes]]"
    if route.call == "operation":
        return operation
    return _plain(route, waits=waits)


def _arguments(route: Route) -> Iterator[str]:
    path = re.sub(r"{(\w+)}", r"{segment(\1)}", route.path)
    quoted = f'f"{path}"' if route.ids else f'"{path}"'
    if route.call == "watch":
        yield route.ids[0]
        return
    if route.call in ("json", "operation", "either", "nothing"):
        yield f'"{route.method}"'
    yield quoted
    if route.call == "upload":
        yield "content"
    if route.call == "download":
        yield f'accept=accept or "{route.accept[0]}"'
    if route.call == "text":
        yield f'accept="{route.accept[0]}"'
    if route.query or route.call == "download":
        yield f"query={_dictionary(route.query)}"
    if route.body:
        yield f"body={_dictionary(route.body)}"
    if route.method == "POST":
        yield "key=idempotency_key"
    if route.operation_id in _IMPATIENT:
        yield "patient=False"
    if route.operation_id in _SECONDS:
        yield f"read_seconds={_SECONDS[route.operation_id]}"


def _dictionary(parameters: tuple[Parameter, ...]) -> str:
    return "{" + ", ".join(f'"{each.name}": {each.name}' for each in parameters) + "}"


_HEAD = (
    '"""{title} Written by generate_routes.py; do not edit."""\n\n'
    "from __future__ import annotations\n\n"
)


def _module(found: list[Route], *, waits: bool) -> str:
    many, context = (
        ("AsyncIterator", "AbstractAsyncContextManager")
        if waits
        else (
            "Iterator",
            "AbstractContextManager",
        )
    )
    calls, operation = ("AsyncCalls", "AsyncOperation") if waits else ("Calls", "Operation")
    title = "A method for each route, to be awaited." if waits else "A method for each route."
    source = _HEAD.format(title=title) + (
        "import builtins\n"
        f"from collections.abc import {many}, Mapping, Sequence\nfrom contextlib import {context}\n"
        "from typing import Any, Literal\n\n"
        f"from holdfast_client.calls import {calls}, Members, {operation}\n"
        "from holdfast_client.core import Content, segment\n"
        "from holdfast_client.routes import answers\n\n"
    )
    groups = dict.fromkeys(each.group for each in found)
    for group in groups:
        heading = _TITLES.get(group, f"Routes below `/v1/{group}`.")
        source += f'class {group.title()}:\n    """{heading}"""\n\n'
        source += f"    def __init__(self, call: {calls}) -> None:\n        self._call = call\n\n"
        for route in found:
            if route.group == group:
                method = _method(route, waits=waits)
                # A method `list` hides the type of that name in its class.
                source += re.sub(r"\blist\[", "builtins.list[", method) + "\n"
    source += 'class Groups:\n    """Every group of routes."""\n\n'
    source += f"    def __init__(self, call: {calls}) -> None:\n"
    for group in groups:
        source += f"        self.{group} = {group.title()}(call)\n"
    return source


def _answers(doc: _Schema) -> str:
    schemas = doc["components"]["schemas"]
    source = _HEAD.format(title="Documents that are answered, and long bodies that are sent.")
    source += (
        "from collections.abc import Mapping, Sequence\n"
        "from typing import TYPE_CHECKING, Any, Literal, TypedDict\n\n"
        "if TYPE_CHECKING:\n    Members = Mapping[str, Any]\n\n"
    )
    kinds = {each["$ref"].rpartition("/")[2] for each in schemas["Operation"]["oneOf"]}
    for name, schema in schemas.items():
        if "properties" not in schema or name in kinds:
            continue
        if name.endswith("Request") and name not in _REQUESTS:
            continue
        sent = name in _REQUESTS
        title = re.sub(r"\s+", " ", schema.get("description", name)).split(". ")[0].rstrip(".")
        source += f"class {name}(TypedDict{', total=False' if sent else ''}):\n"
        source += f'    """{title}."""\n\n'
        for member, value in schema["properties"].items():
            if member in _REQUESTS.get(name, ()):
                continue
            if not member.isidentifier() or keyword.iskeyword(member):
                raise SystemExit(f"{name}.{member} cannot be a member of a TypedDict")
            annotation = _type(value, schemas, sent=sent).replace("answers.", "")
            source += f"    {member}: {annotation}\n"
        source += "\n\n"
    return source


def _table(found: list[Route]) -> str:
    source = _HEAD.format(title="Every route, as the fake node and tests need to know it.")
    source += "TABLE: tuple[tuple[str, str, str, str], ...] = (\n"
    for route in found:
        method = f"{route.group}.{route.name}"
        source += f'    ("{route.method}", "{route.path}", "{method}", "{route.call}"),\n'
    return source + ')\n"""Method, path, name here, and how it is answered."""\n'


def generate(doc: _Schema) -> dict[str, str]:
    """Return the sources of the package `routes` for a document, not formatted yet."""
    found = list(routes(doc))
    return {
        "__init__.py": '"""Every route of the API, written by generate_routes.py."""\n',
        "answers.py": _answers(doc),
        "asynchronous.py": _module(found, waits=True),
        "blocking.py": _module(found, waits=False),
        "table.py": _table(found),
    }


def write(doc: _Schema, directory: Path) -> None:
    """Write the formatted sources for a document to a directory."""
    for name, source in generate(doc).items():
        (directory / name).write_text(source)
    settings = f"--config={ROUTES.parents[1] / 'pyproject.toml'}"
    ruff = [sys.executable, "-m", "ruff"]
    fix = ["check", settings, "--quiet", "--fix", "--select=F401,I"]
    subprocess.run([*ruff, *fix, directory], check=True)  # noqa: S603 - our own files
    subprocess.run([*ruff, "format", settings, "--quiet", directory], check=True)  # noqa: S603


if __name__ == "__main__":
    write(document(), ROUTES)
