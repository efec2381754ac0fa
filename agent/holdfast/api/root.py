"""`GET /`: where to go from here, for a person with curl or with a browser."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from html import escape

from anyio import to_thread
from fastapi import Request
from starlette.responses import Response

from holdfast import __version__
from holdfast.api.auth import peer_in
from holdfast.api.documents import problems_of
from holdfast.api.rendering import one_line, printable, progress_line
from holdfast.api.routing import MediaType, ServicesDep, make_router, spec
from holdfast.api.services import Services
from holdfast.api.tokens import Scope
from holdfast.operations.model import Operation

router = make_router(tags=["monitoring"])

TEXT, HTML = "text/plain", "text/html"
_SHOWN = 10
_REFRESH_SECONDS = 5

_CALLS = (
    ("GET", "/v1/node", "this machine: identity, memory, disks below each root"),
    ("GET", "/v1/pagecache", "what is resident"),
    ("POST", "/v1/pagecache/dumps", "record it"),
    ("GET", "/v1/pagecache/dumps", "the dumps stored here"),
    ("POST", "/v1/pagecache/loads", 'bring a dump back: {"dump": "latest"}'),
    ("POST", "/v1/pagecache/evictions", 'drop pages: {"paths": ["…"]}'),
    ("POST", "/v1/manifests", "record every file with its digest"),
    ("GET", "/v1/manifests", "the manifests stored here"),
    ("POST", "/v1/manifests/latest/verifications", "read the files again and compare"),
    ("POST", "/v1/manifests/comparisons", 'compare two: {"left": "…", "right": "…"}'),
    ("GET", "/v1/tuning", "kernel settings in force, and what has drifted"),
    ("GET", "/v1/tuning/profiles", "what can be applied"),
    ("POST", "/v1/tuning/plan", 'what would change: {"profile": "…"}'),
    ("POST", "/v1/tuning/apply", "change it, all or nothing"),
    ("POST", "/v1/tuning/rollback", "bring back what was before"),
    ("GET", "/v1/operations", "work done and under way"),
    ("GET", "/v1/operations/ID/events", "follow one; Accept: text/plain for a person"),
    ("POST", "/v1/operations/ID/cancel", "stop one"),
    ("GET", "/healthz  /readyz  /metrics", "monitoring"),
    ("GET", "/openapi.json", "all of this, for programs"),
)
# Nothing is loaded from anywhere, and nothing on the page can run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; }
tr { border-bottom: 1px solid #8884; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
progress { width: 8rem; }
.warning { border-left: .3rem solid #c60; padding-left: .75rem; }
.failed { color: #c33; }
"""


@dataclass(frozen=True)
class _Status:
    roots: list[str]
    reasons: list[str]
    operations: list[Operation]
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
            "content": {one: {"schema": {"type": "string"}} for one in (TEXT, HTML)},
        },
        **problems_of(),
    },
)
@spec(Scope.READ, produces=(TEXT, HTML))
async def get_root(services: ServicesDep, request: Request, media_type: MediaType) -> Response:
    """Answer state, and what to call next."""
    status = await _look(services, request)
    if media_type == HTML:
        return Response(
            _page(status), media_type=HTML, headers={"Content-Security-Policy": _POLICY}
        )
    return Response(_text(status), media_type=TEXT)


async def _look(services: Services, request: Request) -> _Status:
    operations = await to_thread.run_sync(partial(services.operations.list, limit=_SHOWN))
    if peer_in(request.scope).transport == "unix":
        socket = services.settings.socket
        base, curl = "http://holdfast", f"curl --unix-socket {socket} "
    else:
        base, curl = f"{request.url.scheme}://{request.url.netloc}", "curl "
    return _Status(
        roots=[printable(str(root)) for root in services.settings.roots],
        reasons=list(services.degraded()),
        operations=operations,
        base=one_line(printable(base)),
        curl=curl,
    )


def _text(status: _Status) -> str:
    lines = [f"holdfast {__version__}   roots: {', '.join(map(one_line, status.roots))}"]
    lines += [f"NOT READY: {reason}" for reason in status.reasons]
    lines += ["", "Operations, newest first:"]
    lines += [f"  {_line(one)}" for one in status.operations] or ["  none yet"]
    lines += ["", "What to call:"]
    lines += [f"  {method:<5}{path:<40} {what}" for method, path, what in _CALLS]
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


def _line(operation: Operation) -> str:
    line = progress_line(operation, _moment(operation))
    return f"{operation.id}  {operation.kind:<16} {line}"


def _moment(operation: Operation) -> datetime:
    moment = operation.finished_at or operation.started_at or operation.created_at
    return moment.astimezone()


def _page(status: _Status) -> str:
    warnings = "".join(f'<p class="warning">Not ready: {escape(one)}</p>' for one in status.reasons)
    rows = "".join(map(_row, status.operations)) or '<tr><td colspan="4">none yet</td></tr>'
    calls = "".join(
        f"<tr><td>{method}<td><code>{_linked(method, path)}</code><td>{escape(what)}</tr>"
        for method, path, what in _CALLS
    )
    roots = ", ".join(f"<code>{escape(root)}</code>" for root in status.roots)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>holdfast</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>holdfast {escape(__version__)}</h1><p>Roots: {roots}</p>{warnings}"
        "<h2>Operations, newest first</h2>"
        f"<table><tr><th>id<th>kind<th>progress<th>state</tr>{rows}</table>"
        f"<h2>What to call</h2><table>{calls}</table></body></html>\n"
    )


def _row(operation: Operation) -> str:
    report = operation.progress
    bar = ""
    if report.bytes_expected and not operation.state.final:
        bar = f'<progress max="{report.bytes_expected}" value="{report.bytes_done}"></progress> '
    tone = ' class="failed"' if operation.error is not None else ""
    link = f"/v1/operations/{escape(operation.id)}"
    return (
        f'<tr><td><a href="{link}"><code>{escape(operation.id)}</code></a>'
        f"<td>{escape(operation.kind)}<td>{bar}"
        f"{escape(printable(progress_line(operation, _moment(operation))))}"
        f"<td{tone}>{escape(operation.state.value)}</tr>"
    )


def _linked(method: str, path: str) -> str:
    if method != "GET" or "ID" in path:
        return escape(path)
    return " ".join(f'<a href="{escape(one)}">{escape(one)}</a>' for one in path.split())
