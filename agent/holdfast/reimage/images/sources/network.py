"""Connections to image servers: to addresses that were checked, and that can be broken off.

A name is resolved once and the connection made to an address that was found, so that a name server
that answers differently the next time changes nothing. This holds for each redirect as well.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Collection, Iterable
from typing import Any

import httpcore
import httpx
import psutil

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources.allowed import Address, AllowedSources
from holdfast.reimage.images.sources.base import SourceError

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
"""Metadata services of clouds that are not on a link-local address."""
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_EMBEDDING = tuple(
    ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
"""IPv6 networks whose last 32 bits are an IPv4 address (RFC 4291, 6052, 8215)."""


def why_not(address: Address, own: Collection[Address]) -> str | None:
    """Return why nothing is fetched from an address; None for one that is fine."""
    address = _embedded(address) or address
    old = address.version == 4
    reasons = {
        "unspecified": address.is_unspecified or (old and address in _THIS_NETWORK),
        "loopback": address.is_loopback,
        "link-local": address.is_link_local,
        "multicast": address.is_multicast,
        "reserved": old and address.is_reserved,
        "that of a metadata service": address in _METADATA,
        "this machine's own": address in own,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def own_addresses() -> frozenset[Address]:
    """Return the addresses of this machine's interfaces."""
    found = set()
    for interface in psutil.net_if_addrs().values():
        for address in interface:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                found.add(ipaddress.ip_address(address.address.partition("%")[0]))
    return frozenset(found)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to."""
    if address.version == 4:
        return None
    if address.is_unspecified or address.is_loopback:
        return None
    for inner in (address.ipv4_mapped, address.sixtofour, (address.teredo or (None, None))[1]):
        if inner is not None:
            return inner
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class Connections(httpcore.NetworkBackend):
    """Makes connections, of which any thread can break off those that there are."""

    def __init__(self, allowed: AllowedSources, *, guarded: bool) -> None:
        """Check addresses if `guarded`."""
        self._allowed = allowed
        self._guarded = guarded
        self._backend = httpcore.SyncBackend()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._aborted = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a host. Raises `SourceError` for one of which an address is not fine."""
        error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._resolve(host, port):
            try:
                stream = self._backend.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as problem:
                error = problem
                continue
            self._remember(stream)
            return stream
        raise error

    def abort(self) -> None:
        """Break off all connections; a thread that waits for one gets an error."""
        with self._lock:
            self._aborted = True
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # the other end was quicker
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._sockets.clear()

    def _remember(self, stream: httpcore.NetworkStream) -> None:
        # A duplicate: with TLS the socket object itself is replaced.
        duplicate = stream.get_extra_info("socket").dup()
        with self._lock:
            if not self._aborted:
                self._sockets.append(duplicate)
                return
        duplicate.close()
        stream.close()
        raise httpcore.ConnectError("broken off")

    def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = [str(info[4][0]) for info in found]
        if self._guarded:
            own = own_addresses()
            for text in addresses:
                address = ipaddress.ip_address(text.partition("%")[0])
                why = why_not(address, own)
                if why is not None and not self._allowed.names(host, address):
                    raise SourceError(
                        Slug.FORBIDDEN,
                        f"Nothing is fetched from {host}: its address {address} is {why}; only an "
                        "entry of `reimage.sources` that has the address itself permits that.",
                    )
        return addresses


class Transport(httpx.HTTPTransport):
    """The transport of httpx over connections of ours."""

    def __init__(self, trust: Any, connections: Connections) -> None:
        super().__init__(verify=trust, trust_env=False)
        self._pool.close()
        # What httpx has no parameter for, httpcore has: where its connections come from.
        self._pool = httpcore.ConnectionPool(ssl_context=trust, network_backend=connections)
