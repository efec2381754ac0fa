"""JSON bodies that are too large to be validated in the event loop.

The framework parses and validates in the loop. A small body takes a few milliseconds there whatever
it holds. A larger one is parsed in a thread first, is refused if it has more values than any valid
request, and is handed to the framework as the model that it is by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from holdfast.api.http.problems import ProblemError, bad_json, invalid, refuse
from holdfast.operations.model import Slug

SMALL_BYTES = 4 << 10
MAX_VALUES = 10_000
"""Values in one body, at any depth: lists of the API have up to 1000 entries."""
_THREADS = 2
"""The parser holds the interpreter's lock most of the time: more threads are no help."""

_adapters: dict[Any, TypeAdapter[Any]] = {}
_limiter = anyio.CapacityLimiter(_THREADS)


async def validated(request: Request, model: Any) -> None:
    """Validate a large body against `model` off the loop. Raises `ProblemError` if it is wrong.

    A small one, or none, is left to the framework.
    """
    body = await request.body()
    if len(body) <= SMALL_BYTES:
        return
    value = await anyio.to_thread.run_sync(_parse, body, model, limiter=_limiter)
    # What `Request.json` answers from now on: an instance is not validated again.
    request._json = value


def _parse(body: bytes, model: Any) -> Any:
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        raise ProblemError(bad_json(f"{error.msg} at character {error.pos}")) from None
    except (ValueError, RecursionError):
        raise ProblemError(bad_json("it cannot be decoded")) from None
    if sum(1 for _ in _some_values(value)) > MAX_VALUES:
        raise refuse(Slug.INVALID_REQUEST, f"The body has more than {MAX_VALUES} values.")
    adapter = _adapters.get(model)
    if adapter is None:
        adapter = _adapters[model] = TypeAdapter(model)
    try:
        return adapter.validate_python(value, from_attributes=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        located = [{**detail, "loc": ("body", *detail["loc"])} for detail in details]
        raise ProblemError(invalid(located, tuple(getattr(model, "model_fields", ())))) from None


def _some_values(value: Any) -> Iterator[Any]:
    """Yield the values inside of a parsed body, one more than allowed at most."""
    waiting = [value]
    count = 0
    while waiting and count <= MAX_VALUES:
        current = waiting.pop()
        count += 1
        yield current
        if isinstance(current, dict):
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
