"""Extends schemathesis, which loads this file: requests that fit name things that exist.

Made-up ids and paths lead to 404 and no further. `HOLDFAST_TEST_KNOWN` has, as JSON, the values
that exist, by the name of a path parameter or of a field of a body.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from typing import Any

import requests.sessions
import schemathesis
from requests.adapters import HTTPAdapter
from schemathesis import Case, GenerationMode, HookContext
from urllib3 import Retry

KNOWN: dict[str, list[Any]] = json.loads(os.environ["HOLDFAST_TEST_KNOWN"])
ADDRESSES = frozenset({"descriptor", "content"})
"""Fields with addresses of servers: those made up do not answer, which takes half a minute."""

# It tries wrong tokens faster than the daemon answers them to one address: then they wait.
_WAITING = Retry(total=3, status_forcelist=[429], allowed_methods=None, raise_on_status=False)
requests.sessions.HTTPAdapter = functools.partial(  # type: ignore[attr-defined, assignment]
    HTTPAdapter, max_retries=_WAITING
)


def _replaced(values: dict[str, Any]) -> dict[str, Any]:
    """Put something that exists in place of two thirds of the values, always of the same ones."""
    return {name: _choice(name, value) for name, value in values.items()}


def _choice(name: str, value: Any) -> Any:
    known = KNOWN.get(name)
    lot = zlib.crc32(json.dumps(value, default=repr).encode())
    if known is None or value is None or (lot % 3 == 0 and name not in ADDRESSES):
        return value
    return known[lot // 3 % len(known)]


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], **_kwargs: Any) -> None:
    """Change a request, unless it is meant not to fit."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    # A part that is assigned is judged anew, so what is to stay is not touched.
    if case.path_parameters and case.method != "DELETE":
        case.path_parameters = _replaced(case.path_parameters)
    if isinstance(case.body, dict):
        case.body = _replaced(case.body)
