"""Who calls, and what they may do.

A unix socket is trusted through its file mode. On TCP a bearer token identifies the caller. With
`loopback_trusted` TCP on loopback is trusted too. Whatever the transport, a request without a valid
token has to pass the checks of `browsers.py`.

Everything here is done for strangers as well: the work for a request does not grow with it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api.http.callers.browsers import refuse_web_pages
from holdfast.api.http.callers.failures import FailureLimit, log_limit
from holdfast.api.http.callers.tokens import Scope as Permission
from holdfast.api.http.callers.tokens import Token, TokenError, TokenStore
from holdfast.api.http.problems import ProblemError, problem_response, refuse
from holdfast.api.http.transport.protocol import Peer, recognise
from holdfast.operations.model import Slug

log = logging.getLogger(__name__)

# GET and HEAD of these need no permission: from anywhere, and from this machine; `None` below.
# A route declares itself what it leaves open.
OPEN = frozenset({"/", "/v1/version"})
OPEN_ON_LOOPBACK = frozenset({"/healthz", "/readyz", "/metrics"})
_OPEN_METHODS = ("GET", "HEAD")
_COUNTED = frozenset({Slug.UNAUTHENTICATED.status, Slug.METHOD_NOT_ALLOWED.status})
"""Refusals of strangers, of which each address has a limited number."""
_NOWHERE = Peer("tcp", "unknown")
_HINT = (
    "Send a token as `Authorization: Bearer TOKEN`; `holdfast token create` makes one. On the node "
    "itself, root and the socket's group need none: "
    "`curl --unix-socket {socket} http://holdfast/`."
)
_HINT_WITHOUT_SOCKET = (
    "Send a token as `Authorization: Bearer TOKEN`; `holdfast token create` makes one."
)


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    name: str
    """`uid:1000`, `token:ci`, `loopback`, or `anonymous` where nobody has to be known."""
    permission: Permission | None
    peer: Peer


def peer_in(scope: Scope) -> Peer:
    """Return the other end of the request's connection; nobody trusted if it is not known."""
    peer: Peer = scope.get("state", {}).get("peer", _NOWHERE)
    return peer


def caller_in(scope: Scope) -> Caller | None:
    """Return who sent the request, or None if that is not known."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller


def require(scope: Scope, needed: Permission) -> None:
    """Raise a problem unless the caller of the request may do what needs `needed`."""
    caller = caller_in(scope)
    if caller is None or caller.permission is None:
        if caller is None or scope["path"] not in OPEN_ON_LOOPBACK:
            hint: str = scope.get("state", {}).get("hint", "A token is needed here.")
            raise _unauthenticated("", hint)
        return
    if not caller.permission.includes(needed):
        raise refuse(
            Slug.FORBIDDEN,
            f"This needs a token with the scope `{needed.value}`; {caller.name} has "
            f"`{caller.permission.value}`.",
            headers={
                "WWW-Authenticate": _challenge("insufficient_scope", f', scope="{needed.value}"')
            },
        )


class AuthMiddleware:
    """Identifies the caller, and refuses every request from an unknown one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: TokenStore,
        loopback_trusted: bool,
        host_names: Collection[str] = (),
        socket: object = None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._loopback_trusted = loopback_trusted
        self._host_names = host_names
        self._hint = _HINT_WITHOUT_SOCKET if socket is None else _HINT.format(socket=socket)
        self._failures = FailureLimit()
        self._lines = log_limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its caller noted, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            caller = self._identify(scope)
        except ProblemError as error:
            refusal = error
            if error.problem.status in _COUNTED:
                refusal = self._bounded(error, peer_in(scope))
            await problem_response(refusal.problem, refusal.headers)(scope, receive, send)
            return
        state["caller"] = caller
        if caller.permission is not None:
            recognise(scope)
        state["hint"] = self._hint
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> Caller:
        peer = peer_in(scope)
        headers = Headers(scope=scope)
        authorization = headers.get("authorization")
        if peer.transport == "unix":
            if authorization is None or self._find(authorization) is None:
                refuse_web_pages(scope["method"], headers, self._host_names, lenient=True)
            return Caller(f"uid:{peer.uid}", Permission.ADMIN, peer)
        if authorization is not None:
            return self._by_token(authorization, peer)
        if self._loopback_trusted and peer.loopback:
            refuse_web_pages(scope["method"], headers, self._host_names)
            return Caller("loopback", Permission.ADMIN, peer)
        monitoring = peer.loopback and scope["path"] in OPEN_ON_LOOPBACK
        if not monitoring and scope["path"] not in OPEN:
            raise _unauthenticated("", self._hint)
        if scope["method"] not in _OPEN_METHODS:
            allowed = ", ".join(_OPEN_METHODS)
            raise refuse(
                Slug.METHOD_NOT_ALLOWED,
                f"Without a token only {allowed} is allowed here.",
                headers={"Allow": allowed},
            )
        if monitoring:
            refuse_web_pages(scope["method"], headers, self._host_names, lenient=True)
        return Caller("anonymous", None, peer)

    def _bounded(self, error: ProblemError, peer: Peer) -> ProblemError:
        """Count a failure, and return the problem that reports it."""
        seconds = self._failures.failed(peer.address)
        if seconds == 0:
            if self._lines.failed("") == 0:
                log.warning("%s was not let in: %s", peer.address, error.problem.detail)
            return error
        return refuse(
            Slug.TOO_MANY_FAILURES,
            "Too many requests without a valid token came from this address; see to the token, "
            f"and try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )

    def _find(self, authorization: str) -> Token | None:
        """Return the valid token in an Authorization header, or None for whatever reason."""
        scheme, _, secret = authorization.partition(" ")
        try:
            token = self._tokens.find(secret.strip()) if scheme.lower() == "bearer" else None
        except TokenError as error:
            log.error("%s", error)
            return None
        return None if token is None or token.expired() else token

    def _by_token(self, authorization: str, peer: Peer) -> Caller:
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise _unauthenticated(
                "invalid_request", "The Authorization header should be `Bearer TOKEN`."
            )
        try:
            token = self._tokens.find(secret)
        except TokenError as error:
            # What is wrong with the file is for the operator's log, not for a stranger.
            log.error("%s", error)
            raise refuse(
                Slug.UNAVAILABLE,
                "Tokens cannot be checked now: the token file cannot be used; the log has the "
                "reason.",
            ) from error
        if token is None:
            raise _unauthenticated("invalid_token", "This token is not known, or was revoked.")
        if token.expired():
            raise _unauthenticated("invalid_token", "This token has expired; make a new one.")
        return Caller(f"token:{token.name}", token.scope, peer)


def _challenge(error: str, more: str = "") -> str:
    return 'Bearer realm="holdfast"' + (f', error="{error}"' if error else "") + more


def _unauthenticated(error: str, detail: str) -> ProblemError:
    return refuse(
        Slug.UNAUTHENTICATED,
        detail or "A token is needed here.",
        headers={"WWW-Authenticate": _challenge(error)},
    )
