"""The outermost layer of a request: HEAD, unexpected errors, common headers, audit and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api.http.callers.audit import AuditLog, summary
from holdfast.api.http.callers.auth import caller_in, peer_in
from holdfast.api.http.callers.browsers import SAFE_METHODS
from holdfast.api.http.callers.failures import log_limit
from holdfast.api.http.callers.tokens import Scope as Permission
from holdfast.api.http.problems import CLIENT_CLOSED, internal_problem, problem_response
from holdfast.api.http.rendering import one_line
from holdfast.metrics import Metrics
from holdfast.operations.model import Slug, format_time, now
from holdfast.process import trace
from holdfast.telemetry.spans import Answered, RequestSpan, Spans

log = logging.getLogger(__name__)

UNMATCHED = "unmatched"
"""The route label of requests for which there is no route."""
_MAX_METHOD = 16
_OFTEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes and scrapes have no spans."""
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


class EdgeMiddleware:
    """Sees every request first and every answer last."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, audit: AuditLog, spans: Spans | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._audit = audit
        self._spans = spans or Spans()
        self._lines = log_limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method: str = scope["method"]
        span = self._begin_span(scope)
        begin = time.perf_counter()
        scope.setdefault("state", {})["audit"] = {}
        status: int | None = None
        operation: str | None = None

        async def observed(message: Message) -> None:
            nonlocal status, operation
            if message["type"] == "http.response.start":
                status = int(message["status"])
                operation = scope["state"]["audit"].get("operation")
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if _from_stranger(scope) and (status >= 400 or _announces_body(scope)):
                    # Nothing of theirs is kept, and what is left of a body is not read.
                    headers["connection"] = "close"
                if method not in SAFE_METHODS:
                    await self._record(scope, method, status)
            await send(message)

        try:
            if method == "HEAD":
                await _answer_head(self._app, scope, receive, observed)
            else:
                await self._app(scope, receive, observed)
        except asyncio.CancelledError:
            if not scope["app"].state.stopping.is_set():
                raise
            # Nothing failed: what is not done when the server ends, it breaks off.
        except Exception as error:
            what = f"{one_line(method)} {one_line(scope['path'])}"
            problem = internal_problem(error, what)
            if status is not None:
                # Half an answer must not look whole: the server breaks the connection off.
                raise
            await problem_response(problem)(scope, receive, observed)
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED)
            seconds = time.perf_counter() - begin
            self._metrics.observe_request(method, route, status or CLIENT_CLOSED, seconds)
            log.debug("%s %s %s %.1f ms", method, route, status, seconds * 1000)
            caller = caller_in(scope)
            # Strangers may send any number of requests.
            if span is not None and caller is not None and not _from_stranger(scope):
                peer = peer_in(scope)
                span.end(
                    Answered(
                        method=method,
                        route=route,
                        path=summary(scope["path"]),
                        status=status or CLIENT_CLOSED,
                        caller=caller.name,
                        address=peer.address,
                        transport=peer.transport,
                        operation=operation,
                    )
                )

    def _begin_span(self, scope: Scope) -> RequestSpan | None:
        """Have what follows belong to the caller's trace, or to the one that begins here."""
        received = trace.parse(Headers(scope=scope).getlist("traceparent"))
        trace.belong(received)
        span = None if scope["path"] in _OFTEN else self._spans.request()
        if span is not None:
            trace.belong(received or span.traceparent, span.traceparent)
        return span

    async def _record(self, scope: Scope, method: str, status: int) -> None:
        caller, peer = caller_in(scope), peer_in(scope)
        stranger = _from_stranger(scope)
        if stranger and (status == Slug.TOO_MANY_FAILURES.status or self._lines.failed("")):
            return  # as in `failures.py`: these are not logged one by one
        added: dict[str, Any] = scope["state"]["audit"]
        entry: dict[str, Any] = {
            "time": format_time(now()),
            "who": caller.name if caller else "unknown",
            "remote": peer.address,
            "transport": peer.transport,
            "method": method[:_MAX_METHOD],
            "path": summary(scope["path"]),
            "route": getattr(scope.get("route"), "path", None),
            "status": status,
            "operation": added.pop("operation", None),
            "params": summary(added.pop("params", None)),
            **summary(added),
        }
        if trace.current() is not None:
            entry["traceparent"] = trace.current()
        if peer.certificate is not None:
            entry["certificate"] = summary(peer.certificate)
        needed = getattr(scope.get("route"), "permission", None)
        admin = caller is not None and caller.permission is needed is Permission.ADMIN
        with anyio.CancelScope(shield=True):
            await self._audit.write(entry, to_file=not stranger, lasting=admin)


def _from_stranger(scope: Scope) -> bool:
    """Return whether nobody who is known sent this request."""
    caller = caller_in(scope)
    return caller is None or caller.permission is None


def _announces_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0"


async def _answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve HEAD as GET without the body; what would stream is stopped at its first piece."""
    streams = asyncio.Event()

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif message.get("more_body", False):
            streams.set()

    scope["method"] = "GET"
    answer = asyncio.ensure_future(app(scope, receive, send_headers))
    streaming = asyncio.ensure_future(streams.wait())
    try:
        await asyncio.wait({answer, streaming}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        scope["method"] = "HEAD"
        streaming.cancel()
        if not answer.done():
            answer.cancel()
        with suppress(asyncio.CancelledError):
            await answer
