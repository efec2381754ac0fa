"""One request and its answer, blocking or not, behind one asynchronous face.

What follows an operation is written once, as coroutines over an `Exchange`. Those of a blocking
one never suspend, so that `run` can drive them without an event loop.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from holdfast_client.errors import Unreachable
from holdfast_client.target import Target

T = TypeVar("T")
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
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

    @property
    def connect_seconds(self) -> float:
        """How long a connection may take."""
        return min(CONNECT_SECONDS, self.read_seconds)


class Reply(NamedTuple):
    """An answer whose head has come; `pieces` is its body. Names of headers are in lower case."""

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


def blocking(target: Target, agent: str) -> Exchange:
    """Build the exchange of a program without an event loop. Raises `ValueError`, `OSError`.

    A unix socket needs the standard library alone, which loads faster than httpx.
    """
    if target.socket is not None:
        from holdfast_client.socket_exchange import SocketExchange  # noqa: PLC0415

        return SocketExchange(target, agent)
    from holdfast_client.httpx_exchange import Blocking  # noqa: PLC0415

    return Blocking(target, agent)


def non_blocking(target: Target, agent: str) -> Exchange:
    """Build the exchange of a program with an event loop. Raises as `blocking`."""
    from holdfast_client.httpx_exchange import NonBlocking  # noqa: PLC0415

    return NonBlocking(target, agent)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a blocking exchange to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("a blocking client was asked to wait for an event loop")


def run_each(work: AsyncIterator[T]) -> Iterator[T]:
    """Yield what an asynchronous generator over a blocking exchange yields."""
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


def check_deadline(request: Request, target: Target) -> None:
    """Raise `Unreachable` once an answer is given up."""
    if request.deadline is not None and time.monotonic() > request.deadline:
        raise Unreachable(f"{target}: the answer did not come to its end in time", why="silent")
