"""Bounds the size of request bodies, whether they announce their length or come in chunks."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api.http.problems import problem_response
from holdfast.operations.model import Problem, Slug

_KEY = "holdfast.body_limit"


class BodyTooLarge(HTTPException):
    """The body is, or announces to be, larger than is accepted.

    One of the framework's own exceptions, as those are what passes through its reading of bodies.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body is larger than the {limit} bytes accepted here.")

    @property
    def problem(self) -> Problem:
        """What to answer."""
        return Problem.of(Slug.TOO_LARGE, self.detail)


@dataclass
class BodyLimit:
    """The largest body accepted for one request, in bytes; a route may raise it."""

    limit: int
    received: int = 0


def body_limit(scope: Scope) -> BodyLimit:
    """Return the limit of a request that came through the middleware."""
    limit: BodyLimit = scope[_KEY]
    return limit


class BodyLimitMiddleware:
    """Refuses to read more of a body than the limit, before it is asked for where possible."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its reading bounded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = scope[_KEY] = BodyLimit(self._max_bytes)
        announced = _content_length(scope)

        async def limited() -> Message:
            # Before the first read, so that a client that expects `100 Continue` sends nothing.
            if announced is not None and announced > limit.limit:
                raise BodyTooLarge(limit.limit)
            message = await receive()
            if message["type"] == "http.request":
                limit.received += len(message.get("body", b""))
                if limit.received > limit.limit:
                    raise BodyTooLarge(limit.limit)
            return message

        await self._app(scope, limited, send)


async def too_large(_request: Request, error: Exception) -> Response:
    """Return `BodyTooLarge`; the rest of the body is not worth reading, so hang up."""
    if not isinstance(error, BodyTooLarge):
        raise TypeError(f"not a body that is too large: {error!r}")
    return problem_response(error.problem, {"Connection": "close"})


def _content_length(scope: Scope) -> int | None:
    text = Headers(scope=scope).get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
