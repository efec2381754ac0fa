"""What the two HTTP clients have in common: one request, its answer, and what can go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

CONNECT_SECONDS = 5.0


class ExchangeError(Exception):
    """A request had no whole answer; the text is the reason."""


class CannotConnectError(ExchangeError):
    """Nothing answers at the address."""


class TimedOutError(ExchangeError):
    """The other end took longer than it may."""


class WrongSchemeError(ExchangeError):
    """The other end speaks TLS, and the URL begins with `http`, or the other way round."""


class BrokenError(ExchangeError):
    """The connection broke before the answer was whole."""


@dataclass(frozen=True)
class Request:
    """One request. `seconds` is how long a silence of the other end may last."""

    method: str
    path: str
    seconds: float
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str | Iterator[bytes] | None = None


class Answer(Protocol):
    """An answer whose body is read once; reading raises `ExchangeError`."""

    @property
    def status(self) -> int:
        """The code of the answer."""

    @property
    def reason(self) -> str:
        """The words beside it."""

    @property
    def url(self) -> str:
        """The server, for messages."""

    def read(self) -> bytes:
        """Return the whole body."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes."""


class Client(Protocol):
    """Makes requests of one daemon."""

    def send(self, request: Request) -> AbstractContextManager[Answer]:
        """Make a request, and end it with the context. Raises `ExchangeError`."""

    def close(self) -> None:
        """Close the connections."""


def lines_of(answer: Answer) -> Iterator[bytes]:
    """Yield the lines of an answer that are not blank, as they come. Raises `ExchangeError`."""
    rest = b""
    for piece in answer.pieces():
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest
