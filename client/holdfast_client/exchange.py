"""One request and its answer, over httpx: blocking or not, behind one asynchronous face.

What follows an operation is written once, as coroutines over an `Exchange`. Those of a `Blocking`
one never suspend, so that `run` can drive them without an event loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpcore
import httpx

from holdfast_client.errors import Unreachable

T = TypeVar("T")
CONNECT_SECONDS = 5.0
# A machine that went down in the middle of an answer is noticed within half a minute.
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Request:
    """What to send. `content` makes the body anew for each attempt."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Callable[[], bytes | Iterable[bytes]] | None = None
    read_seconds: float = 30.0
    """The longest silence in the middle of an answer, and before it."""
    deadline: float | None = None
    """By `time.monotonic()`: when even an answer that keeps coming is given up."""


@dataclass(frozen=True)
class Reply:
    """An answer whose head has come; `pieces` is its body."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Exchange(Protocol):
    """Sends requests and waits."""

    def open(self, request: Request) -> AbstractAsyncContextManager[Reply]:
        """Send a request. Raises `Unreachable`, also while the body is read."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Close all connections."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a `Blocking` exchange to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("a blocking client was asked to wait for an event loop")


def run_each(work: AsyncIterator[T]) -> Iterator[T]:
    """Yield what an asynchronous generator over a `Blocking` exchange yields."""
    try:
        while True:
            try:
                value = run(_next(work))
            except StopAsyncIteration:
                return
            yield value
    finally:
        close = getattr(work, "aclose", None)
        if close is not None:
            run(close())


async def _next(work: AsyncIterator[T]) -> T:
    return await work.__anext__()


@dataclass(frozen=True)
class Target:
    """Where a node is, and how to prove who asks."""

    url: str | None = None
    socket: Path | None = None
    token: str | None = None
    ca_file: Path | None = None
    certificate: tuple[Path, Path] | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.socket is None):
            raise ValueError("Name a node by its URL or by its socket, and not by both.")
        if self.url is None:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is not the URL of a node, such as https://node-1:9918.")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{self.url} would send the token readable to all; use https.")

    def __str__(self) -> str:
        return self.url or str(self.socket)

    @property
    def base(self) -> str:
        """What paths are appended to."""
        return (self.url or "http://holdfast").rstrip("/")

    def headers(self, agent: str) -> dict[str, str]:
        """Return what every request has."""
        headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def trust(self) -> ssl.SSLContext | bool:
        """Return whom to believe: the authorities of `ca_file`, or those of the system."""
        if self.url is None or not self.url.startswith("https:"):
            return False
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return context


class Blocking:
    """An `Exchange` for programs without an event loop."""

    def __init__(self, target: Target, agent: str) -> None:
        self._target = target
        if target.socket is not None:
            transport: httpx.HTTPTransport = _UnixTransport(target.socket)
        else:
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
            pieces = self._pieces(response, request.deadline)
            yield Reply(response.status_code, response.headers, pieces)
        finally:
            response.close()

    async def _pieces(
        self, response: httpx.Response, deadline: float | None
    ) -> AsyncIterator[bytes]:
        with _explained(self._target):
            for piece in response.iter_raw():
                _check(deadline, self._target)
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
            pieces = self._pieces(response, request.deadline)
            yield Reply(response.status_code, response.headers, pieces)
        finally:
            await response.aclose()

    async def _pieces(
        self, response: httpx.Response, deadline: float | None
    ) -> AsyncIterator[bytes]:
        with _explained(self._target):
            async for piece in response.aiter_raw():
                _check(deadline, self._target)
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
    seconds = request.read_seconds
    return http.build_request(
        request.method,
        request.path,
        params=request.query or None,
        headers=dict(request.headers),
        content=content,
        timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
    )


def _check(deadline: float | None, target: Target) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise Unreachable(f"{target}: the answer did not come to its end in time")


@contextmanager
def _explained(target: Target) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        reason = str(error) or "no connection in time"
        raise Unreachable(f"{target}: cannot connect: {reason}", sent=False) from error
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"{target}: the connection broke: {reason}") from error


class _UnixTransport(httpx.HTTPTransport):
    """httpx's own, which would leave a socket open where nobody listens."""

    def __init__(self, path: Path) -> None:
        super().__init__(uds=str(path))
        self._pool.close()
        self._pool = httpcore.ConnectionPool(uds=str(path), network_backend=_Backend())


class _Backend(httpcore.SyncBackend):
    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(path)
        except TimeoutError as error:
            connection.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            connection.close()
            raise httpcore.ConnectError(str(error)) from error
        return _UnixStream(connection)


class _UnixStream(httpcore.NetworkStream):
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._connection.settimeout(timeout)
            return self._connection.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._connection.settimeout(timeout)
            self._connection.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:
        """Return what the pool asks for before it uses a connection again."""
        if info == "is_readable":
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            return bool(poll.poll(0))
        return self._connection if info == "socket" else None
