"""`GET /`: where to go from here, for a person with curl or with a browser."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.resources import files

from anyio import to_thread
from fastapi import Request
from starlette.responses import Response

from holdfast import __version__
from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.routing import MediaType, Router, ServicesDep, ShownCall, spec
from holdfast.api.http.callers.auth import peer_in
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.rendering import one_line, printable, progress_line
from holdfast.api.services import Services
from holdfast.operations.model import OperationSummary

router = Router(tag="monitoring", about="For people and programs that watch.")

TEXT, HTML = "text/plain", "text/html"
_SHOWN = 10

_FIRST: tuple[ShownCall, ...] = (
    ("GET", "/v1/node", "this machine: identity, memory, disks below each root"),
)
"""Before the calls of the capabilities, which their routers have."""
_LAST: tuple[ShownCall, ...] = (
    ("GET", "/v1/operations", "work done and under way"),
    ("GET", "/v1/operations/ID/events", "follow one; Accept: text/plain for a person"),
    ("POST", "/v1/operations/ID/cancel", "stop one"),
    ("GET", "/v1/version", "version, API level, features"),
    ("GET", "/healthz  /readyz  /metrics", "monitoring"),
    ("GET", "/openapi.json", "all of this, for programs"),
)
_PLOTS = "page_plots.js"


def _page() -> str:
    """Return the page as it is sent: one document, with the script of its plots in it."""
    sources = files("holdfast.api.routes")
    page, plots = (
        sources.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", _PLOTS)
    )
    return page.replace(f"// {{{_PLOTS}}}\n", plots)


_PAGE = _page()


def _policy(page: str) -> str:
    """Allow the page's own script, style and icon, and to ask this daemon; no more.

    Script and style are named by their digests.
    """

    def digest(tag: str) -> str:
        inner = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; "
        f"style-src 'sha256-{digest('style')}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_POLICY = _policy(_PAGE)


@dataclass(frozen=True)
class _Status:
    roots: list[str]
    reasons: list[str]
    operations: list[OperationSummary]
    calls: list[ShownCall]
    base: str
    curl: str


@router.get(
    "/",
    operation_id="getRoot",
    summary="Where to go from here",
    response_class=Response,
    responses={
        200: {
            "description": "Text for a terminal, a page for a browser.",
            "content": {media_type: {"schema": {"type": "string"}} for media_type in (TEXT, HTML)},
        },
        **problems_of(),
    },
)
@spec(Scope.READ, produces=(TEXT, HTML), open_types=(HTML,))
async def get_root(services: ServicesDep, request: Request, media_type: MediaType) -> Response:
    """Return state, and what to call next.

    The page has nothing of this node in it and needs no permission: it asks the API itself.
    """
    if media_type == HTML:
        return Response(_PAGE, media_type=HTML, headers={"Content-Security-Policy": _POLICY})
    return Response(_text(await _look(services, request)), media_type=TEXT)


async def _look(services: Services, request: Request) -> _Status:
    operations = await to_thread.run_sync(partial(services.operations.list, limit=_SHOWN))
    if peer_in(request.scope).transport == "unix":
        socket = services.settings.socket
        base, curl = "http://holdfast", f"curl --unix-socket {socket} "
    else:
        base, curl = f"{request.url.scheme}://{request.url.netloc}", "curl "
    return _Status(
        roots=[printable(str(root)) for root in services.settings.roots],
        reasons=list(await services.observed()),
        operations=operations,
        calls=[*_FIRST, *request.app.state.shown, *_LAST],
        base=one_line(printable(base)),
        curl=curl,
    )


def _text(status: _Status) -> str:
    lines = [f"holdfast {__version__}   roots: {', '.join(map(one_line, status.roots))}"]
    lines += [f"NOT READY: {reason}" for reason in status.reasons]
    lines += ["", "Operations, newest first:"]
    lines += [f"  {_line(operation)}" for operation in status.operations] or ["  none yet"]
    lines += ["", "What to call:"]
    lines += [f"  {method:<5}{path:<40} {what}" for method, path, what in status.calls]
    lines += [
        "",
        "For example:",
        f"  {status.curl}{status.base}/v1/pagecache",
        f"  {status.curl}-X POST {status.base}/v1/pagecache/dumps",
        f'  {status.curl}--json \'{{"dump": "latest"}}\' {status.base}/v1/pagecache/loads',
        f"  {status.curl}-N -H 'Accept: text/plain' {status.base}/v1/operations/ID/events",
        "",
    ]
    return "\n".join(lines)


def _line(operation: OperationSummary) -> str:
    line = progress_line(operation, _moment(operation))
    return f"{operation.id}  {operation.kind:<16} {line}"


def _moment(operation: OperationSummary) -> datetime:
    moment = operation.finished_at or operation.started_at or operation.created_at
    return moment.astimezone()
