"""An exchange over a unix socket, on the standard library alone."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

from holdfast_client.errors import Unreachable
from holdfast_client.exchange import Reply, Request, check_deadline
from holdfast_client.target import Target

_PIECE = 256 << 10
_CUT_OFF = "the other end closed it before the answer was whole"


class SocketExchange:
    """A blocking `Exchange` that makes each request over a connection of its own."""

    def __init__(self, target: Target, agent: str) -> None:
        self._target = target
        self._headers = {"Accept": "*/*", "Connection": "close", **target.headers(agent)}

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Reply]:
        """Send a request; see `Exchange`."""
        connection = http.client.HTTPConnection("holdfast")
        try:
            connection.sock = self._connect(request.connect_seconds)
            connection.sock.settimeout(request.read_seconds)
            self._send(connection, request)
            with self._explained():
                response = connection.getresponse()
            if response.length is None and not response.chunked:
                # The daemon always declares where a response ends: this head was cut off.
                raise self._broken(_CUT_OFF)
            headers = {name.lower(): value for name, value in response.getheaders()}
            yield Reply(response.status, headers, self._pieces(response, request))
        finally:
            connection.close()

    async def sleep(self, seconds: float) -> None:
        """Wait; see `Exchange`."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop here

    async def close(self) -> None:
        """Nothing is open between requests."""

    def _connect(self, seconds: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(os.fspath(self._target.socket or ""))
        except (OSError, ValueError) as error:  # a path that no address can hold is a ValueError
            connection.close()
            late = isinstance(error, TimeoutError)
            reason = "the connection was not accepted" if late else str(error)
            raise Unreachable(
                f"{self._target}: cannot connect: {reason}",
                sent=False,
                why="silent" if late else "no-connection",
                reason=reason,
            ) from error
        return connection

    def _send(self, connection: http.client.HTTPConnection, request: Request) -> None:
        """Send a request. The other end may answer, and hang up, before it has all of a body."""
        query = urlencode({name: _text(value) for name, value in request.query.items()}, doseq=True)
        content = None if request.content is None else request.content()
        with self._explained():
            path = f"{request.path}?{query}" if query else request.path
            connection.putrequest(request.method, path, skip_accept_encoding=True)
            for name, value in {**self._headers, **request.headers}.items():
                connection.putheader(name, value)
        if content is None or isinstance(content, bytes):
            if content or request.method in {"POST", "PUT"}:
                connection.putheader("Content-Length", str(len(content or b"")))
            with suppress(_HungUpError), self._explained_sending():
                connection.endheaders(content or None)
            return
        connection.putheader("Transfer-Encoding", "chunked")
        with suppress(_HungUpError):
            self._send_pieces(connection, content)

    def _send_pieces(
        self, connection: http.client.HTTPConnection, content: Iterable[bytes]
    ) -> None:
        with self._explained_sending():
            connection.endheaders()
        for piece in content:  # outside of those: its own errors are not the connection's
            with self._explained_sending():
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"")
        with self._explained_sending():
            connection.send(b"0\r\n\r\n")

    async def _pieces(
        self, response: http.client.HTTPResponse, request: Request
    ) -> AsyncIterator[bytes]:
        left = response.length  # None where the body comes in chunks
        while left is None or left > 0:
            with self._explained():
                piece = response.read1(_PIECE if left is None else min(left, _PIECE))
            if not piece:
                break
            check_deadline(request, self._target)
            yield piece
            left = None if left is None else left - len(piece)
        if left:
            raise self._broken(f"{left} bytes of the answer are missing")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            message = f"{self._target}: no answer in time"
            raise Unreachable(message, why="silent", reason="no answer") from error
        except http.client.RemoteDisconnected as error:
            raise self._broken("Server disconnected without sending a response.") from error
        except http.client.IncompleteRead as error:
            raise self._broken(_CUT_OFF) from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self._broken(reason or type(error).__name__) from error

    @contextmanager
    def _explained_sending(self) -> Iterator[None]:
        try:
            with self._explained():
                yield
        except Unreachable as error:
            if isinstance(error.__cause__, BrokenPipeError | ConnectionResetError):
                raise _HungUpError from error
            raise

    def _broken(self, reason: str) -> Unreachable:
        return Unreachable(f"{self._target}: the connection broke: {reason}", reason=reason)


class _HungUpError(Exception):
    """The other end reads no more of a body."""


def _text(value: Any) -> Any:
    """Write a value as httpx does."""
    if isinstance(value, bool):
        return str(value).lower()
    return [_text(each) for each in value] if isinstance(value, list | tuple) else str(value)
