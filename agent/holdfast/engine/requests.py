"""Requests to the engine: typed here, and JSON text on the way to it.

Each request is a dataclass with the fields of the struct that the engine parses, which refuses
others. mypy finds a field that is missing or misspelt, and so does the first call of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from holdfast._engine import Progress


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """The base of a request that one function of the engine takes."""

    function: ClassVar[Callable[[str, Progress], str]]


def encode(request: object) -> str:
    """Return the JSON text of a request, or of a part of one. Raises `TypeError` for others."""
    return json.dumps(request, default=_plain)


def call(request: EngineRequest, progress: Progress) -> dict[str, Any]:
    """Have the engine do what is requested. Raises what the engine raises."""
    outcome: dict[str, Any] = json.loads(call_for_text(request, progress))
    return outcome


def call_for_text(request: EngineRequest, progress: Progress) -> str:
    """Do as `call`, and return the engine's text as it is."""
    return type(request).function(encode(request), progress)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"the engine takes no {type(value).__name__}")
