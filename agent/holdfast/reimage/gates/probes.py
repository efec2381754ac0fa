"""One reading of a datastore that serves, by its own protocol: a sentence, or why it does not.

Nothing is written, no password is sent, and what comes back is bounded in time and size.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

_SECONDS = 5.0
_MOST_BYTES = 64 << 10
_MOST_TEXT = 200


class NotReadyError(Exception):
    """It does not serve; the message is a clause that states why."""


class Connection:
    """A connection to an address, with one deadline for all of it."""

    def __init__(self, address: str) -> None:
        """Raise `NotReadyError` if nothing listens there."""
        self._deadline = time.monotonic() + _SECONDS
        self._received = b""
        try:
            self._socket = socket.create_connection(_host_and_port(address), _SECONDS)
        except OSError as error:
            raise NotReadyError(f"{address} does not answer: {error.strerror or error}") from error

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except OSError as error:
            raise NotReadyError(f"the connection broke: {error.strerror or error}") from error

    def until(self, complete: Callable[[bytes], bool]) -> bytes:
        """Return what comes, once it is complete or the other end closes."""
        try:
            while not complete(self._received):
                self._socket.settimeout(self._left())
                piece = self._socket.recv(4096)
                if not piece:
                    break
                self._received += piece
                if len(self._received) > _MOST_BYTES:
                    raise NotReadyError("its answer is too long")
        except OSError as error:
            raise NotReadyError(f"it does not answer: {error.strerror or error}") from error
        received, self._received = self._received, b""
        return received

    def exactly(self, count: int) -> bytes:
        """Return this number of bytes, which the caller bounds."""
        received = bytearray()
        try:
            while len(received) < count:
                self._socket.settimeout(self._left())
                piece = self._socket.recv(min(count - len(received), 1 << 16))
                if not piece:
                    raise NotReadyError("its answer is incomplete")
                received += piece
        except OSError as error:
            raise NotReadyError(f"it does not answer: {error.strerror or error}") from error
        return bytes(received)

    def line(self) -> str:
        """Return what comes up to the end of a line."""
        return shown(self.until(lambda data: b"\n" in data))

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NotReadyError("it does not answer in time")
        return left


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def shown(data: bytes | str) -> str:
    """Return a stranger's text, bounded and printable."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    text = " ".join(text.split())[:_MOST_TEXT]
    return "".join(character if character.isprintable() else "?" for character in text)


def redis(address: str) -> str:
    """Check that it serves, has its data, and as a replica is connected to its primary."""
    with Connection(address) as connection:
        connection.send(b"PING\r\n")
        pong = connection.line()
        if pong != "+PONG":
            raise NotReadyError(f"it answers PING with {pong!r}")
        connection.send(b"INFO replication\r\n")
        head = connection.until(lambda data: b"role:" in data or data[:1] == b"-").decode("latin-1")
        if head.startswith("-"):
            raise NotReadyError(f"it answers INFO with {shown(head)!r}")
        kind, end, body = head.partition("\r\n")
        if not end or not re.fullmatch(r"\$[0-9]{1,6}", kind):
            raise NotReadyError(f"it answers INFO with {shown(head)!r}")
        length = int(kind[1:])
        body += connection.until(lambda data: len(body) + len(data) >= length).decode("latin-1")
    facts = dict(line.split(":", 1) for line in body.split("\r\n") if ":" in line)
    link = facts.get("master_link_status", "unknown")
    if facts.get("role") == "slave" and link != "up":
        raise NotReadyError(f"its link to the primary is {shown(link)}")
    return f"serves as {shown(facts.get('role', 'unknown'))}"


def memcached(address: str) -> str:
    """Check that it serves."""
    with Connection(address) as connection:
        connection.send(b"version\r\n")
        said = connection.line()
    if not said.startswith("VERSION "):
        raise NotReadyError(f"it answers `version` with {said!r}")
    return f"serves: {said}"


_STARTING = b"57P03"
"""SQLSTATE cannot_connect_now: starting up, shutting down, or in recovery without connections."""


def postgresql(address: str) -> str:
    """Check that it accepts connections, as pg_isready(1) does: this user may be refused."""
    parameters = b"user\0holdfast\0database\0postgres\0application_name\0holdfast\0\0"
    with Connection(address) as connection:
        connection.send(struct.pack("!ii", 8 + len(parameters), 3 << 16) + parameters)
        head = connection.until(
            lambda data: len(data) >= 5 and len(data) > struct.unpack("!i", data[1:5])[0]
        )
    kind, rest = head[:1], head[5:]
    if kind == b"R":
        return "accepts connections"
    if kind != b"E":
        raise NotReadyError(f"it is no PostgreSQL: {shown(head)!r}")
    fields = {field[:1]: field[1:] for field in rest.split(b"\0") if field}
    if fields.get(b"C") == _STARTING:
        raise NotReadyError(shown(fields.get(b"M", b"it does not accept connections yet")))
    return "accepts connections"


def zookeeper(address: str) -> str:
    """Check that it serves in a quorum, or alone; by `srvr`, which is allowed by default."""
    with Connection(address) as connection:
        connection.send(b"srvr")
        said = connection.until(lambda _: False)
    mode = next(
        (line[6:] for line in said.decode("latin-1").splitlines() if line.startswith("Mode: ")),
        None,
    )
    if mode is None:
        raise NotReadyError(f"it answers `srvr` with {shown(said)!r}")
    return f"serves as {shown(mode)}"


def http(url: str, context: ssl.SSLContext | None) -> bytes:
    """Return the body of an answer of 2xx. Follows nothing elsewhere. Raises `NotReadyError`."""
    import httpx  # noqa: PLC0415 - slow to import

    deadline = time.monotonic() + _SECONDS
    try:
        with (
            httpx.Client(verify=context or False, timeout=_SECONDS, trust_env=False) as client,
            # What is compressed could grow without a bound, and Elasticsearch compresses if it may.
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            content = b""
            for piece in response.iter_raw(4096):
                content += piece
                if len(content) > _MOST_BYTES or time.monotonic() > deadline:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise NotReadyError(f"{url} does not answer: {shown(str(error))}") from error
    if not response.is_success:
        raise NotReadyError(f"{url} answers {response.status_code}")
    return content


def elasticsearch(url: str, context: ssl.SSLContext | None) -> str:
    """Check that it is in a cluster that has all primary shards."""
    content = http(f"{url.rstrip('/')}/_cluster/health", context)
    try:
        found = json.loads(content)
        status, nodes = str(found["status"]), int(found["number_of_nodes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotReadyError(f"{url} is no Elasticsearch") from error
    if status not in ("green", "yellow"):
        raise NotReadyError(f"the cluster of {nodes} nodes is {shown(status)}")
    return f"the cluster of {nodes} nodes is {status}"
