"""Exchanges over httpx: by URL, and without blocking also over a unix socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

from holdfast_client.errors import Unreachable
from holdfast_client.exchange import Reply, Request, check_deadline
from holdfast_client.target import Target

# A machine that went down in the middle of an answer is noticed within half a minute.
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


class Blocking:
    """An `Exchange` for programs without an event loop, which calls a URL."""

    def __init__(self, target: Target, agent: str) -> None:
        self._target = target
        transport = httpx.HTTPTransport(verify=target.trust(), socket_options=_ALIVE)
        self._http = httpx.Client(
            base_url=target.base,
            headers=target.headers(agent),
            transport=transport,
            trust_env=False,
        )

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Reply]:
        """Send a request; see `Exchange`."""
        with _explained(self._target):
            content = None if request.content is None else request.content()
            response = self._http.send(_built(self._http, request, content), stream=True)
        try:
            pieces = self._pieces(response, request)
            yield Reply(response.status_code, response.headers, pieces)
        finally:
            response.close()

    async def _pieces(self, response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        with _explained(self._target):
            for piece in response.iter_raw():
                check_deadline(request, self._target)
                yield piece

    async def sleep(self, seconds: float) -> None:
        """Wait; see `Exchange`."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop here

    async def close(self) -> None:
        """Close all connections."""
        self._http.close()


class NonBlocking:
    """An `Exchange` for programs with an event loop of asyncio."""

    def __init__(self, target: Target, agent: str) -> None:
        self._target = target
        if target.socket is not None:
            transport = httpx.AsyncHTTPTransport(uds=str(target.socket))
        else:
            transport = httpx.AsyncHTTPTransport(verify=target.trust(), socket_options=_ALIVE)
        self._http = httpx.AsyncClient(
            base_url=target.base,
            headers=target.headers(agent),
            transport=transport,
            trust_env=False,
        )

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Reply]:
        """Send a request; see `Exchange`."""
        with _explained(self._target):
            content = None if request.content is None else _awaited(request.content())
            response = await self._http.send(_built(self._http, request, content), stream=True)
        try:
            pieces = self._pieces(response, request)
            yield Reply(response.status_code, response.headers, pieces)
        finally:
            await response.aclose()

    async def _pieces(self, response: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        with _explained(self._target):
            async for piece in response.aiter_raw():
                check_deadline(request, self._target)
                yield piece

    async def sleep(self, seconds: float) -> None:
        """Wait; see `Exchange`."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _awaited(content: bytes | Iterable[bytes]) -> bytes | AsyncIterator[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in content if not isinstance(content, bytes) else ():
            yield piece

    return content if isinstance(content, bytes) else pieces()


def _built(
    http: httpx.Client | httpx.AsyncClient,
    request: Request,
    content: bytes | Iterable[bytes] | AsyncIterator[bytes] | None,
) -> httpx.Request:
    return http.build_request(
        request.method,
        request.path,
        params=request.query or None,
        headers=dict(request.headers),
        content=content,
        timeout=httpx.Timeout(request.read_seconds, connect=request.connect_seconds),
    )


@contextmanager
def _explained(target: Target) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        late = isinstance(error, httpx.TimeoutException)
        reason = _reason(error) or "no connection in time"
        raise Unreachable(
            f"{target}: cannot connect: {reason}",
            sent=False,
            why="silent" if late else "no-connection",
            reason=reason,
        ) from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"{target}: no answer in time", why="silent") from error
    except httpx.TransportError as error:
        reason = _reason(error) or type(error).__name__
        raise Unreachable(f"{target}: the connection broke: {reason}", reason=reason) from error


def _reason(error: BaseException) -> str:
    """Find the most specific message in a chain of exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
