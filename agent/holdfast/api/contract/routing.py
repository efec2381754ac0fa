"""What every route has in common: a permission, what it can answer and take, strict parameters.

All of it is checked before a body is read. A route is declared when its module is imported, and
prepared at its first request: preparing all of them would take a quarter of the daemon's start.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from holdfast.api.http.bodies import validated
from holdfast.api.http.callers.auth import Caller, caller_in, require
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.limits import body_limit
from holdfast.api.http.negotiation import MAX_ACCEPT, MAX_CONTENT_TYPE, choose, media_type_of
from holdfast.api.http.problems import MAX_ERRORS, ProblemError, refuse, suggestion
from holdfast.api.http.rendering import JSON, one_line
from holdfast.api.services import Services
from holdfast.capability import C
from holdfast.operations.model import FieldError, Problem, Slug

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_SPEC = "__holdfast_spec__"
ShownCall = tuple[str, str, str]
"""Method, path, and a few words."""
MAX_PARAMETERS = 16
"""Query parameters of one request."""


@dataclass(frozen=True)
class Spec:
    """What a route needs and offers."""

    scope: Scope
    produces: tuple[str, ...] = (JSON,)
    """Media types by preference; empty for responses without a body."""
    consumes: tuple[str, ...] = (JSON,)
    upload: bool = False
    """The body is a record file: streamed, with the limit of uploads."""
    open_types: frozenset[str] = frozenset()
    """Media types that are the same for everyone, so that no permission is needed for them."""


def spec(
    scope: Scope,
    *,
    produces: tuple[str, ...] = (JSON,),
    consumes: tuple[str, ...] = (JSON,),
    upload: bool = False,
    open_types: Iterable[str] = (),
) -> Callable[[_Endpoint], _Endpoint]:
    """Declare what an endpoint needs and offers; every endpoint has this."""

    def mark(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _SPEC, Spec(scope, produces, consumes, upload, frozenset(open_types)))
        return endpoint

    return mark


def spec_of(endpoint: Callable[..., Any]) -> Spec:
    """Return what an endpoint declared. Raises `AttributeError` if it did not."""
    declared: Spec = getattr(endpoint, _SPEC)
    return declared


class StrictRoute(APIRoute):
    """A route that refuses what it does not know rather than ignoring it."""

    @property
    def permission(self) -> Scope:
        """What a caller needs to call it."""
        return spec_of(self.endpoint).scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the checks before the endpoint."""
        handle = super().get_route_handler()
        declared = spec_of(self.endpoint)
        known = frozenset(_query_names(self.dependant))
        takes_body = declared.upload or self.body_field is not None

        async def checked(request: Request) -> Response:
            if not (declared.open_types and _offers_open(request, declared)):
                require(request.scope, declared.scope)
            _check_query(request, known)
            if takes_body:
                _check_content_type(request, declared)
            if declared.upload:
                services: Services = request.app.state.services
                body_limit(request.scope).limit = services.settings.max_record_bytes
            if declared.produces:
                request.state.media_type = _negotiate(request, declared.produces)
            if self.body_field is not None:
                await validated(request, self.body_field.field_info.annotation)
            return await handle(request)

        return checked


def _offers_open(request: Request, declared: Spec) -> bool:
    return _negotiate(request, declared.produces) in declared.open_types


@dataclass(frozen=True)
class _Declared:
    """A route as its module declares it: enough to match requests, and to prepare the rest."""

    path: str
    method: str
    endpoint: Callable[..., Any]
    documented: dict[str, Any]
    """What only the OpenAPI document shows: the framework's options `summary`, `responses`, …"""


_PREPARING = CapacityLimiter(1)
"""Preparing holds the interpreter's lock: more threads are no help."""


class DeclaredRoute(Route):
    """A declared route, which becomes a `StrictRoute` at its first request."""

    def __init__(self, declared: _Declared, fixed: frozenset[str]) -> None:
        super().__init__(declared.path, declared.endpoint)
        self._fixed = fixed
        self.methods = {declared.method}
        self.app = self._handle
        self._prepare = partial(
            StrictRoute, declared.path, declared.endpoint, methods=[declared.method]
        )
        self._prepared: StrictRoute | None = None

    @property
    def permission(self) -> Scope:
        """What a caller needs to call it."""
        return spec_of(self.endpoint).scope

    def matches(self, scope: Connection) -> tuple[Match, Connection]:
        """Match as ever, but take no fixed part of another route's path for an id."""
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, child
        if not self._fixed.isdisjoint(child["path_params"].values()):
            return Match.NONE, {}
        return match, {**child, "route": self}

    async def _handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        if self._prepared is None:
            self._prepared = await to_thread.run_sync(self._prepare, limiter=_PREPARING)
        scope["route"] = self._prepared
        await self._prepared.handle(scope, receive, send)


class Router:
    """The routes of one module, below a prefix.

    `about` describes their tag; of routers with one tag, the first has it. `features` are what
    `GET /v1/version` names, described in docs/http-api.md. `shown` are the calls that `GET /` shows
    a person: method, path below the prefix, and a few words.
    """

    def __init__(
        self,
        *,
        prefix: str = "",
        tag: str,
        about: str = "",
        features: Sequence[str] = (),
        shown: Sequence[ShownCall] = (),
    ) -> None:
        self.tag = tag
        self.about = about
        self.features = features
        self.shown = [(method, prefix + path, words) for method, path, words in shown]
        self._prefix = prefix
        self._declared: list[_Declared] = []

    def get(self, path: str, **documented: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Declare a route for GET, with what the OpenAPI document shows of it."""
        return self._declare("GET", path, documented)

    def post(self, path: str, **documented: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Declare a route for POST, with what the OpenAPI document shows of it."""
        return self._declare("POST", path, documented)

    def put(self, path: str, **documented: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Declare a route for PUT, with what the OpenAPI document shows of it."""
        return self._declare("PUT", path, documented)

    def delete(self, path: str, **documented: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Declare a route for DELETE, with what the OpenAPI document shows of it."""
        return self._declare("DELETE", path, documented)

    @property
    def paths(self) -> list[str]:
        """The paths of the routes."""
        return [declared.path for declared in self._declared]

    @property
    def served(self) -> list[DeclaredRoute]:
        """The routes to answer requests with, made anew for each application."""
        return [
            DeclaredRoute(declared, fixed_parts(declared.path, self.paths))
            for declared in self._declared
        ]

    @property
    def routes(self) -> list[StrictRoute]:
        """The routes with everything that the OpenAPI document shows. Slow: made at each call."""
        return [
            StrictRoute(
                declared.path,
                declared.endpoint,
                methods=[declared.method],
                tags=[self.tag],
                **declared.documented,
            )
            for declared in self._declared
        ]

    def _declare(
        self, method: str, path: str, documented: dict[str, Any]
    ) -> Callable[[_Endpoint], _Endpoint]:
        def declare(endpoint: _Endpoint) -> _Endpoint:
            self._declared.append(_Declared(self._prefix + path, method, endpoint, documented))
            return endpoint

        return declare


def fixed_parts(path: str, paths: Iterable[str]) -> frozenset[str]:
    """Return the parts of other paths that stand where `path` has a parameter.

    `/v1/manifests/comparisons` is not a manifest.
    """
    parts = path.split("/")
    return frozenset(
        other[at]
        for other in (each.split("/") for each in paths)
        for at, part in enumerate(parts)
        if part.startswith("{") and other[:at] == parts[:at] and len(other) > at
        if not other[at].startswith("{")
    )


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def provided(kind: type[C]) -> Callable[[Request], Coroutine[Any, Any, C]]:
    """Return the dependency that finds the capability of this class."""

    async def find(request: Request) -> C:
        services: Services = request.app.state.services
        return services.capability(kind)

    return find


async def _caller(request: Request) -> Caller:
    caller = caller_in(request.scope)
    if caller is None:  # the middleware lets nobody through whom it does not know
        raise RuntimeError("a request without a caller reached an endpoint")
    return caller


async def _media_type(request: Request) -> str:
    chosen: str = request.state.media_type
    return chosen


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
MediaType = Annotated[str, Depends(_media_type)]


def audited(request: Request, **members: Any) -> None:
    """Add to the audit log's entry of this request."""
    request.state.audit.update(members)


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)


def _check_query(request: Request, known: frozenset[str]) -> None:
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise refuse(
            Slug.INVALID_REQUEST, f"There are more than {MAX_PARAMETERS} query parameters."
        )
    seen: set[str] = set()
    unknown: list[FieldError] = []
    for name, _ in request.query_params.multi_items():
        shown = one_line(name[:64])
        if name in seen:
            raise refuse(
                Slug.INVALID_REQUEST,
                f"The query parameter `{shown}` occurs more than once.",
                field=shown,
            )
        seen.add(name)
        if name not in known:
            message = f"is not a known query parameter{suggestion(name, known)}"
            unknown.append(FieldError(field=shown, message=message))
    if unknown:
        text = "; ".join(f"`{error.field}` {error.message}" for error in unknown[:5])
        if len(unknown) > 5:
            text += f"; and {len(unknown) - 5} more"
        text += "" if text.endswith("?") else "."
        raise ProblemError(Problem.of(Slug.UNKNOWN_FIELD, text, errors=unknown[:MAX_ERRORS]))


def _check_content_type(request: Request, declared: Spec) -> None:
    given = request.headers.get("content-type")
    if len(given or "") > MAX_CONTENT_TYPE:
        raise _unsupported(f"The Content-Type is longer than {MAX_CONTENT_TYPE} characters.")
    length = request.headers.get("content-length", "0").strip()
    empty = length == "0" and "transfer-encoding" not in request.headers
    if (empty and not declared.upload) or (given is None and declared.upload):
        return
    media_type, charset = media_type_of(given or "")
    if "content-encoding" in request.headers:
        raise _unsupported("A body with a Content-Encoding is not supported; send it plain.")
    if given is None or media_type not in declared.consumes:
        wanted = " or ".join(f"`{media_type}`" for media_type in declared.consumes)
        hint = "; with curl, use --json" if declared.consumes == (JSON,) else ""
        named = one_line(media_type or given or "")
        what = f"not `{named}`" if given else "and the header is missing"
        raise _unsupported(f"The Content-Type should be {wanted}, {what}{hint}.")
    if charset not in (None, "utf-8", "utf8", "us-ascii"):
        raise _unsupported("The body should be UTF-8.")


def _unsupported(detail: str) -> ProblemError:
    return refuse(Slug.UNSUPPORTED_MEDIA_TYPE, detail)


def _negotiate(request: Request, offered: tuple[str, ...]) -> str:
    accept = ", ".join(request.headers.getlist("accept"))
    if len(accept) > MAX_ACCEPT:
        raise refuse(
            Slug.NOT_ACCEPTABLE, f"The Accept header is longer than {MAX_ACCEPT} characters."
        )
    chosen = choose(accept, offered)
    if chosen is None:
        raise refuse(
            Slug.NOT_ACCEPTABLE,
            f"There is no representation that `Accept: {one_line(accept)[:200]}` takes; there is "
            f"{', '.join(offered)}.",
        )
    return chosen
