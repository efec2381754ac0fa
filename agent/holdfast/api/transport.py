"""The connection below a request: who is at its other end, and what is said of broken HTTP."""

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
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdfast.api.rendering import PROBLEM_JSON, to_json
from holdfast.api.tls import subject_of
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
    """The user at the other end of a unix socket, as the kernel tells."""
    certificate: str | None = None
    """Whom a client certificate that was verified names: see `subject_of`."""
    loopback: bool = False
    """It is a process of this machine."""


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Find out who is at the other end of a connection that was just made."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _gid = _UCRED.unpack(raw)
        return Peer("unix", f"pid {pid}", uid=uid, loopback=True)
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        # Gone before it was looked at; what it sent is refused for want of a token.
        return Peer("tcp", "unknown")
    host, port = str(name[0]), int(name[1])
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Peer("tcp", shown, certificate=_subject(transport), loopback=_is_loopback(host))


class Protocol(H11Protocol):
    """HTTP/1.1 whose requests know their peer, and whose own errors are problems.

    What comes over TCP is bounded in number and in the time it may take to say what it wants, so
    that strangers cannot take the daemon from those it serves.
    """

    max_tcp_connections = 512
    """Well below the usual limit of open files, 1024: the unix socket and the work need some."""
    header_seconds = 30.0

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who connected, for every request of this connection."""
        super().connection_made(transport)
        peer = peer_of(transport)
        self.app_state = {**self.app_state, "peer": peer}
        if peer.transport == "tcp" and len(self.connections) > self.max_tcp_connections:
            log.warning("too many connections over TCP: %s is turned away", peer.address)
            transport.abort()
            return
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take what came in."""
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        """Begin to count once a request has begun; stop when its headers are there."""
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
        """Answer what is not HTTP, and hang up."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is under way already: it cannot be followed by another one.
            self.transport.close()
            return
        problem = Problem.of(Slug.INVALID_REQUEST, "This is not a valid HTTP/1.1 request.")
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
