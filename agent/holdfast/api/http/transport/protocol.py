"""The connection below a request: its peer, and the response to malformed HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any, Literal

import h11
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from holdfast.api.http.rendering import PROBLEM_JSON, to_json
from holdfast.api.http.transport.connections import Connection
from holdfast.api.http.transport.http1 import BoundedConnection
from holdfast.api.http.transport.tls import subject_of
from holdfast.operations.model import Problem, Slug

log = logging.getLogger(__name__)

_UCRED = struct.Struct("iII")


@dataclass(frozen=True)
class Peer:
    """The other end of a connection."""

    transport: Literal["unix", "tcp"]
    address: str
    """`127.0.0.1:5555`; for a unix socket `pid 812`."""
    uid: int | None = None
    """The user at the other end of a unix socket, as the kernel reports it."""
    certificate: str | None = None
    """Whom a client certificate that was verified names: see `subject_of`."""
    loopback: bool = False
    """It is a process of this machine."""


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Return the peer of a connection that was just made."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _gid = _UCRED.unpack(raw)
        return Peer("unix", f"pid {pid}", uid=uid, loopback=True)
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        # Gone before it was checked; what it sent is refused for want of a token.
        return Peer("tcp", "unknown")
    host, port = str(name[0]), int(name[1])
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Peer("tcp", shown, certificate=_subject(transport), loopback=_is_loopback(host))


def recognise(scope: Scope) -> None:
    """Note that the client of this request's connection is known from now on."""
    connection: Connection | None = scope.get("state", {}).get("connection")
    if connection is not None:
        connection.recognise()


class _Flow(FlowControl):
    """Flow control that can be held: requests for more to read then have to wait."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Protocol(H11Protocol):
    """HTTP/1.1 whose requests know their peer, and whose own errors are problems.

    The time that a client may take to send a request is bounded, and so is the life of its
    connection until it has shown a valid token: strangers cannot keep the daemon from those it
    serves.
    """

    header_seconds = 10.0
    """For the head of a request, from the connection or from its first byte."""
    keep_alive_seconds = 75.0
    stranger_keep_alive_seconds = 5.0
    stranger_seconds = 60.0
    """How long a connection may last without a valid token."""

    write_buffer_bytes = 64 << 10

    _deadline: asyncio.TimerHandle | None = None
    _lifetime: asyncio.TimerHandle | None = None

    def __init__(self, connection: Connection, **options: Any) -> None:
        """`options` are those of the base class."""
        super().__init__(**options)
        self._connection = connection
        self.conn: BoundedConnection = BoundedConnection(self._end_turn)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who connected, for every request of this connection."""
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        # With TLS asyncio would keep half a MiB for each client that does not read.
        transport.set_write_buffer_limits(high=self.write_buffer_bytes)
        peer = peer_of(transport)
        connection = self._connection
        self.app_state = {**self.app_state, "peer": peer, "connection": connection}
        connection.abort = transport.abort
        connection.idle = self._idle
        connection.established = True
        if not connection.known:
            self._lifetime = self.loop.call_later(self.stranger_seconds, self._outstayed)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take what came in."""
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._connection.table.remove(self._connection)
        self._stop_waiting()
        if self._lifetime is not None:
            self._lifetime.cancel()
        super().connection_lost(exc)
        # Buffers go now, and not when cycles of references are collected.
        self._connection.release()
        self.conn.release()

    def on_response_complete(self) -> None:
        """Keep the connection for as long as its client is worth it."""
        known = self._connection.known
        seconds = self.keep_alive_seconds if known else self.stranger_keep_alive_seconds
        self.timeout_keep_alive = seconds  # type: ignore[assignment]
        super().on_response_complete()

    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _end_turn(self) -> None:
        """Let others have the event loop before more of what was received is taken."""
        if not self.flow.held:
            self.flow.pause_reading()
            self.flow.held = True
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self.flow.held = False
        if self.transport.is_closing():
            return
        self.conn.next_turn()
        self.flow.resume_reading()
        self.handle_events()
        self._expect_headers()

    def _outstayed(self) -> None:
        """End the connection of a client that is still not known."""
        self._lifetime = None
        if self._connection.known or self.transport.is_closing():
            return
        if self._idle():
            self.shutdown()
        else:
            # It does not read its answer, or does not end its request.
            self.transport.abort()

    def _expect_headers(self) -> None:
        """Start the clock when a request starts; stop it when its headers are complete."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._took_too_long)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _took_too_long(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Return a problem for what is not HTTP, and hang up."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is under way already: it cannot be followed by another one.
            self.transport.close()
            return
        reason = self.conn.refusal or "This is not a valid HTTP/1.1 request."
        problem = Problem.of(Slug.INVALID_REQUEST, reason)
        body = to_json(problem.model_copy(update={"status": 400}))
        headers = [
            (b"content-type", PROBLEM_JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        events: tuple[Any, ...] = (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in events:
            sent = self.conn.send(event)
            if sent:
                self.transport.write(sent)
        self.transport.close()


def _subject(transport: asyncio.BaseTransport) -> str | None:
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = None if connection is None else connection.getpeercert()
    return subject_of(certificate) if certificate else None


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
