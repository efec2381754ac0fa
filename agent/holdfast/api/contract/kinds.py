"""The OpenAPI description of operations: parameters and results by their kind."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from holdfast.operations.kinds import Registry
from holdfast.operations.model import Operation

_REF = "#/components/schemas/{model}"


def type_operations(schemas: dict[str, Any], kinds: Registry) -> None:
    """Put a schema for each kind in the place of that of any operation."""
    schemas["OperationKind"] = {
        "title": "OperationKind",
        "description": "What an operation does.",
        "type": "string",
        "enum": list(kinds.names()),
    }
    schemas["OperationSummary"]["properties"]["kind"] = _reference("OperationKind")
    whole = Operation.model_json_schema(mode="serialization", ref_template=_REF)
    whole.pop("$defs")
    mapping = {}
    for kind in kinds.names():
        registered = kinds.get(kind)
        name = "".join(word.capitalize() for word in kind.split(".")) + "Operation"
        typed = deepcopy(whole)
        typed["title"] = name
        typed["description"] = f"One run of `{kind}`."
        members = typed["properties"]
        members["kind"] = {"type": "string", "const": kind, "title": "Kind"}
        members["params"] = _added(schemas, registered.params, "validation")
        members["result"] = {
            "anyOf": [_added(schemas, registered.result, "serialization"), {"type": "null"}],
            "title": "Result",
            "description": "Null until it succeeded.",
        }
        schemas[name] = typed
        mapping[kind] = _REF.format(model=name)
    schemas["Operation"] = {
        "title": "Operation",
        "description": "One run of long work; `kind` determines what `params` and `result` have.",
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "kind", "mapping": mapping},
    }


def name_apart(document: dict[str, Any]) -> dict[str, Any]:
    """Name models of the same name in two packages after both, and give each a title of its own."""
    schemas = document["components"]["schemas"]
    names = {name: _plain(name) for name in schemas}
    if len(set(names.values())) != len(names):
        raise ValueError(f"two schemas have the same name: {sorted(names.values())}")
    old = {_REF.format(model=name): _REF.format(model=plain) for name, plain in names.items()}
    renamed: dict[str, Any] = _replaced(document, old)
    schemas = renamed["components"]["schemas"]
    renamed["components"]["schemas"] = {
        names[name]: {**schema, "title": names[name]} for name, schema in sorted(schemas.items())
    }
    return renamed


def _plain(name: str) -> str:
    """Write `holdfast__tuning__models__RollbackRequest` as `TuningRollbackRequest`."""
    package, *_, model = name.split("__")[1:] if "__" in name else ("", name)
    return (package.capitalize() + model).replace("-", "")


def _added(schemas: dict[str, Any], model: type[BaseModel], mode: Any) -> dict[str, Any]:
    """Add the schema of a model, and those it refers to; return a reference to it."""
    _, found = models_json_schema([(model, mode)], ref_template=_REF)
    clash = next((name for name in schemas if name.endswith(f"__{model.__name__}")), None)
    if clash is not None:
        name = f"{model.__module__.replace('.', '__')}__{model.__name__}"
        return _reference(name)
    for name, schema in found["$defs"].items():
        schemas.setdefault(name, schema)
    return _reference(model.__name__)


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(model=name)}


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """Replace whole strings anywhere in a document."""
    if isinstance(value, dict):
        return {key: _replaced(member, texts) for key, member in value.items()}
    if isinstance(value, list):
        return [_replaced(item, texts) for item in value]
    return texts.get(value, value) if isinstance(value, str) else value
