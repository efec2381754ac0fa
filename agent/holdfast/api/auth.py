"""Who calls, and what they may do.

A unix socket is trusted through its file mode. On TCP a bearer token says who it is. With
`loopback_trusted` TCP on loopback is trusted too, and then requests that a web page could make are
refused: those with a foreign `Host` (DNS rebinding) or `Origin` (cross-site requests).
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api.failures import FailureLimit
from holdfast.api.problems import ProblemError, problem_response, refuse
from holdfast.api.tokens import Scope as Permission
from holdfast.api.tokens import TokenError, TokenStore
from holdfast.api.transport import Peer
from holdfast.operations.model import Slug

log = logging.getLogger(__name__)

# No permission at all is needed for these: from anywhere, and from this machine; `None` below.
# What is open of the first, its route says.
OPEN = frozenset({"/"})
OPEN_ON_LOOPBACK = frozenset({"/healthz", "/metrics"})
_NOWHERE = Peer("tcp", "unknown")


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
    """Return who sent the request, or None if that was not found out."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller


def require(scope: Scope, needed: Permission) -> None:
    """Raise a problem unless the caller of the request may do what needs `needed`."""
    caller = caller_in(scope)
    if caller is None:
        raise _unauthenticated("", "")
    if caller.permission is None:
        if scope["path"] not in OPEN_ON_LOOPBACK:
            raise _unauthenticated("", "")
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
    """Finds out who calls, and refuses everything from those it does not know."""

    def __init__(self, app: ASGIApp, *, tokens: TokenStore, loopback_trusted: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._loopback_trusted = loopback_trusted
        self._failures = FailureLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its caller noted, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._identify(scope)
        except ProblemError as error:
            told = error
            if error.problem.status == Slug.UNAUTHENTICATED.status:
                told = self._bounded(error, peer_in(scope))
            await problem_response(told.problem, told.headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> Caller:
        peer = peer_in(scope)
        if peer.transport == "unix":
            return Caller(f"uid:{peer.uid}", Permission.ADMIN, peer)
        headers = Headers(scope=scope)
        given = headers.get("authorization")
        if given is None:
            if self._loopback_trusted and peer.loopback:
                _refuse_web_pages(headers)
                return Caller("loopback", Permission.ADMIN, peer)
            if scope["path"] in OPEN or (peer.loopback and scope["path"] in OPEN_ON_LOOPBACK):
                return Caller("anonymous", None, peer)
            raise _unauthenticated(
                "",
                "Send a token as `Authorization: Bearer TOKEN`; `holdfast token create` makes one.",
            )
        return self._by_token(given, peer)

    def _bounded(self, error: ProblemError, peer: Peer) -> ProblemError:
        """Count a failure, and answer what to say about it."""
        seconds = self._failures.failed(peer.address)
        if seconds == 0:
            log.warning("%s was not let in: %s", peer.address, error.problem.detail)
            return error
        return refuse(
            Slug.TOO_MANY_FAILURES,
            "Too many requests without a valid token came from this address; see to the token, "
            f"and try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )

    def _by_token(self, given: str, peer: Peer) -> Caller:
        scheme, _, secret = given.partition(" ")
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
                "Tokens cannot be checked now: the token file cannot be used; the log says why.",
            ) from error
        if token is None:
            raise _unauthenticated("invalid_token", "This token is not known, or was revoked.")
        if token.expired():
            raise _unauthenticated("invalid_token", "This token has expired; make a new one.")
        return Caller(f"token:{token.name}", token.scope, peer)


def _refuse_web_pages(headers: Headers) -> None:
    host = headers.get("host", "")
    if not _names_loopback(host):
        raise refuse(
            Slug.FORBIDDEN,
            "Without a token, the Host header must be a loopback address or `localhost`.",
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise refuse(
            Slug.FORBIDDEN, "Without a token, requests of pages from elsewhere are refused."
        )
    if origin is None and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise refuse(
            Slug.FORBIDDEN, "Without a token, requests of pages from elsewhere are refused."
        )


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _challenge(error: str, more: str = "") -> str:
    return 'Bearer realm="holdfast"' + (f', error="{error}"' if error else "") + more


def _unauthenticated(error: str, detail: str) -> ProblemError:
    return refuse(
        Slug.UNAUTHENTICATED,
        detail or "A token is needed here.",
        headers={"WWW-Authenticate": _challenge(error)},
    )
