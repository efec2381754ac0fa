"""The HTTP client for the daemon's unix socket: it needs no more than the standard library."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

from holdfast.cli.run.exchange import (
    CONNECT_SECONDS,
    BrokenError,
    CannotConnectError,
    Request,
    TimedOutError,
)

_PIECE = 256 << 10


class UnixClient:
    """Makes each request over a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        """Nothing is open between requests."""

    @contextmanager
    def send(self, request: Request) -> Iterator[UnixAnswer]:
        """Make a request; see `Client`."""
        connection = http.client.HTTPConnection("holdfast")
        try:
            connection.sock = self._connect()
            connection.sock.settimeout(request.seconds)
            _put(connection, request)
            with _explained():
                response = connection.getresponse()
            if response.length is None and not response.chunked:
                # The daemon always declares where a response ends: this head was cut off.
                raise BrokenError("the other end closed it before the answer was whole")
            yield UnixAnswer(response, f"http://holdfast{request.path}")
        finally:
            connection.close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(os.fspath(self._path))
        except TimeoutError as error:
            sock.close()
            raise TimedOutError("the connection was not accepted") from error
        except (OSError, ValueError) as error:  # a path that no address can hold is a ValueError
            sock.close()
            raise CannotConnectError(str(error)) from error
        return sock


class UnixAnswer:
    """An answer that is being read; see `Answer`."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason
        self.url = url

    def read(self) -> bytes:
        """Return the whole body."""
        with _explained():
            return self._response.read()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        left = self._response.length  # None where the body comes in chunks
        while left is None or left > 0:
            with _explained():
                piece = self._response.read1(_PIECE if left is None else min(left, _PIECE))
            if not piece:
                break
            yield piece
            left = None if left is None else left - len(piece)
        if left:
            raise BrokenError(f"{left} bytes of the answer are missing")


def _put(connection: http.client.HTTPConnection, request: Request) -> None:
    """Send a request. The other end may answer, and hang up, before it has all of a body."""
    query = f"?{urlencode(request.params)}" if request.params else ""
    with _explained():
        connection.putrequest(request.method, request.path + query, skip_accept_encoding=True)
        for name, value in {"Accept": "*/*", "Connection": "close", **request.headers}.items():
            connection.putheader(name, value)
    content = request.content
    if content is None or isinstance(content, str):
        body = (content or "").encode()
        if body or request.method in {"POST", "PUT"}:
            connection.putheader("Content-Length", str(len(body)))
        with suppress(_HungUpError), _explained_sending():
            connection.endheaders(body or None)
        return
    connection.putheader("Transfer-Encoding", "chunked")
    with suppress(_HungUpError):
        with _explained_sending():
            connection.endheaders()
        for piece in content:  # outside of those: its own errors are not the connection's
            with _explained_sending():
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"")
        with _explained_sending():
            connection.send(b"0\r\n\r\n")


class _HungUpError(Exception):
    """The other end reads no more of a body."""


@contextmanager
def _explained_sending() -> Iterator[None]:
    try:
        with _explained():
            yield
    except BrokenError as error:
        if isinstance(error.__cause__, BrokenPipeError | ConnectionResetError):
            raise _HungUpError from error
        raise


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the standard library raises into the errors of an exchange."""
    try:
        yield
    except TimeoutError as error:
        raise TimedOutError("no answer") from error
    except http.client.RemoteDisconnected as error:
        raise BrokenError("Server disconnected without sending a response.") from error
    except http.client.IncompleteRead as error:
        raise BrokenError("the other end closed it before the answer was whole") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BrokenError(reason or type(error).__name__) from error
