"""Accepts connections of one socket, and hands those that mean it to the HTTP protocol.

The event loop's own server knows a connection only after its TLS handshake, and lets each wait a
minute for that. Here a connection counts from its accept, costs nothing but a descriptor until its
first byte, and has one deadline for all of its handshake.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable
from functools import partial

from holdfast.api.http.callers.failures import network_of
from holdfast.api.http.transport.connections import Connection, Connections

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_PER_TURN = 16
"""Accepted in one turn of the event loop: other sockets have theirs in between."""
_RETRY_SECONDS = 0.25
_LOG_SECONDS = 10.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNIX = "unix"

# asyncio gives each TLS connection a read buffer of 256 KiB, all of it resident.
sslproto.SSLProtocol.max_size = 32 << 10

ProtocolFactory = Callable[[Connection], asyncio.Protocol]
Security = Callable[[], tuple[ssl.SSLContext | None, int]]
"""Returns the TLS context for the next connection, if any, and its `Certificates.authorities`."""


class Listener:
    """Accepts on one bound and listening socket, until closed."""

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: ProtocolFactory,
        connections: Connections,
        security: Security = lambda: (None, 0),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._make_protocol = make_protocol
        self._connections = connections
        self._security = security
        self._closed = False
        self._logged = -_LOG_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept nothing more, and drop what has not ended its handshake. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for connection in list(self._connections):
            if not connection.established:
                connection.abort()

    async def wait_closed(self) -> None:
        """Return at once: the protocols end their own connections."""

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._admit(sock, address)

    def _rest(self, error: OSError) -> None:
        """Stop accepting for a moment: without a free descriptor the socket stays readable."""
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.error("a connection cannot be accepted: %s", error.strerror or error)
        if error.errno in _EXHAUSTED:
            self._loop.remove_reader(self._sock)
            self._loop.call_later(_RETRY_SECONDS, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    def _admit(self, sock: socket.socket, address: object) -> None:
        sock.setblocking(False)
        unix = sock.family == socket.AF_UNIX
        host = _UNIX if unix or not isinstance(address, tuple) else str(address[0])
        context, authorities = self._security()
        connection = Connection(
            _UNIX if unix else network_of(host),
            self._connections,
            known=unix,
            authorities=authorities,
        )
        if not self._connections.admit(connection):
            sock.close()
            return
        if context is None:
            self._start(connection, sock, None, HANDSHAKE_SECONDS)
        else:
            _FirstByte(self._loop, connection, sock, partial(self._start, context=context))

    def _start(
        self,
        connection: Connection,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        seconds: float,
    ) -> None:
        task = self._loop.create_task(
            self._connect(connection, sock, context, seconds), name="connection"
        )
        self._tasks.add(task)
        connection.abort = partial(_cancel, task)
        task.add_done_callback(partial(self._connected, connection, sock))

    async def _connect(
        self,
        connection: Connection,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        seconds: float,
    ) -> None:
        """Make the transport, with its handshake; the protocol then owns the connection."""
        await self._loop.connect_accepted_socket(
            partial(self._make_protocol, connection),
            sock,
            ssl=context,
            ssl_handshake_timeout=None if context is None else max(0.01, seconds),
            ssl_shutdown_timeout=None if context is None else _CLOSE_SECONDS,
        )

    def _connected(
        self, connection: Connection, sock: socket.socket, task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        # Nothing that a client does before its first request is worth a line of the log.
        log.debug("%s: no connection: %s", connection.address, error or "closed")
        sock.close()
        self._connections.remove(connection)
        connection.release()
        if error is not None and not isinstance(error, OSError):
            log.error("a connection could not be set up", exc_info=error)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


class _FirstByte:
    """Waits for the first byte of a connection, up to the deadline of its handshake."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        sock: socket.socket,
        start: Callable[..., None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._sock = sock
        self._start = start
        self._deadline = loop.time() + HANDSHAKE_SECONDS
        self._timer = loop.call_at(self._deadline, self._give_up)
        connection.abort = self._give_up
        loop.add_reader(sock, self._readable)

    def _stop_waiting(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        self._stop_waiting()
        left = self._deadline - self._loop.time()
        self._start(self._connection, self._sock, seconds=left)

    def _give_up(self) -> None:
        self._stop_waiting()
        self._sock.close()
        self._connection.table.remove(self._connection)
        self._connection.release()
