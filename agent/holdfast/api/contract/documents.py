"""Pieces of the OpenAPI document that many routes share."""

from __future__ import annotations

from typing import Any

from holdfast.api.http.records import BYTES
from holdfast.api.http.rendering import PROBLEM_JSON
from holdfast.api.http.streams import EVENT_STREAM, EVENT_TYPES

Responses = dict[int | str, dict[str, Any]]

_PROBLEMS = {
    400: "This is not HTTP.",
    401: "A valid bearer token is needed.",
    403: "The caller's scope does not allow this, or the operating system does not.",
    404: "There is no such thing.",
    406: "No representation that `Accept` takes.",
    409: "Conflicts with an operation that is queued or running, or with an idempotency key.",
    413: "The body is too large.",
    415: "The body has a media type that is not taken here.",
    422: "Something in the request is not valid; `errors` lists what.",
    429: "Too many requests without a valid token came from this address, or too many operations "
    "are waiting; see `Retry-After`.",
    500: "An unexpected error; the log has its details.",
    503: "Not available now; try again later.",
    507: "No space left on the state volume.",
}
# Any route can return these.
_COMMON = (401, 403, 406, 422, 429, 500, 503)


def problems_of(*codes: int) -> Responses:
    """Describe the problems that a route can return: `codes`, and those that any route can."""
    return {
        code: {
            "description": _PROBLEMS[code],
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for code in sorted({*codes, *_COMMON})
    }


def accepted() -> Responses:
    """Describe 202, and its headers."""
    headers = {
        "Location": {"description": "Where the operation is.", "schema": {"type": "string"}},
        "Retry-After": {
            "description": "Seconds after which to look again.",
            "schema": {"type": "integer"},
        },
    }
    return {
        202: {"description": "Accepted; the operation in its current state.", "headers": headers}
    }


def events() -> dict[str, Any]:
    """Describe a stream in each of its media types."""
    content: dict[str, Any] = {event: {"schema": {"type": "string"}} for event in EVENT_TYPES}
    # Only OpenAPI 3.2 can describe a single event, and few tools read it.
    content[EVENT_STREAM] = {}
    return content


def upload(*media_types: str) -> dict[str, Any]:
    """Describe the body of an upload, whose media type may be any of these or plain bytes.

    Generators of clients know none but that of plain bytes.
    """
    others = " or ".join(f"`{media_type}`" for media_type in media_types)
    return {
        "requestBody": {
            "required": True,
            "description": "A record file, as `GET` of the same path gives it; its media type may "
            f"also be {others}.",
            "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
        }
    }


def started() -> Responses:
    """Describe what a route that starts an operation answers."""
    known = {
        "description": "The operation that this idempotency key had started before.",
        "headers": accepted()[202]["headers"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Operation"}}},
    }
    return {200: known, **accepted(), **problems_of(404, 409, 413, 415, 507)}
