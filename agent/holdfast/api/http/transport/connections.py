"""Which connections are open, and which one gives way when there are too many.

Connections count from their accept, so that what never ends a handshake counts as well. A newcomer
is let in, and the oldest connection of nobody known is closed for it: one of the same address if
that has its share, else one of the address that has the most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

PER_ADDRESS = 128
"""Connections of one address (of IPv6 one network) that have shown no valid token."""
_LOG_SECONDS = 10.0


@dataclass(eq=False)
class Connection:
    """One connection, from its accept to its end."""

    address: str
    """Of the client; all connections to a unix socket have the same one."""
    table: Connections
    known: bool = False
    """A valid token was shown, or the transport is trusted."""
    authorities: int = 0
    """Which client authorities it was accepted under: see `Certificates.authorities`."""
    established: bool = False
    """Its handshake has ended, and a protocol reads requests from it."""
    abort: Callable[[], None] = lambda: None
    """Close it at once."""
    idle: Callable[[], bool] = lambda: False
    """Whether no request is under way."""
    opened: float = field(default_factory=time.monotonic)

    def release(self) -> None:
        """Keep nothing of what it was made of, once it has ended."""
        self.abort = lambda: None
        self.idle = lambda: False

    def recognise(self) -> None:
        """Note that its client is known from now on."""
        if not self.known:
            self.table.recognise(self)


class Connections:
    """The open connections of one listener, at most `most` at a time."""

    def __init__(self, most: int, per_address: int = PER_ADDRESS) -> None:
        self._most = most
        self._per_address = min(per_address, max(1, most // 2))
        self._strangers: dict[str, dict[Connection, None]] = {}
        """By address, each in the order of arrival."""
        self._known: dict[Connection, None] = {}
        self._count = 0
        self._closed = 0
        self._logged = -_LOG_SECONDS

    def __len__(self) -> int:
        """Return how many are open."""
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        """Yield all of them."""
        yield from self._known
        for connections in self._strangers.values():
            yield from connections

    def admit(self, connection: Connection) -> bool:
        """Add a new one, closing another if need be; False if none can be closed for it."""
        if not connection.known:
            same = self._strangers.get(connection.address, {})
            if len(same) >= self._per_address:
                self._close(next(iter(same)))
        if self._count >= self._most:
            victim = self._least_wanted()
            if victim is None:
                self._report()
                return False
            self._close(victim)
        self._add(connection)
        self._count += 1
        return True

    def recognise(self, connection: Connection) -> None:
        """Count a connection among the known ones from now on."""
        if self._drop(connection):
            connection.known = True
            self._add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended. Idempotent."""
        if self._drop(connection):
            self._count -= 1

    def close_older(self, authorities: int) -> int:
        """Close what was accepted under earlier client authorities; return how many those were."""
        older = [connection for connection in self if connection.authorities < authorities]
        for connection in older:
            self.remove(connection)
            connection.abort()
        return len(older)

    def _least_wanted(self) -> Connection | None:
        if self._strangers:
            crowd = max(self._strangers.values(), key=len)
            return next(iter(crowd))
        return next((connection for connection in self._known if connection.idle()), None)

    def _close(self, connection: Connection) -> None:
        self.remove(connection)
        connection.abort()
        self._report()

    def _report(self) -> None:
        self._closed += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            log.warning(
                "too many connections: %d closed or turned away since the last such line",
                self._closed,
            )
            self._logged, self._closed = now, 0

    def _add(self, connection: Connection) -> None:
        if connection.known:
            self._known[connection] = None
        else:
            self._strangers.setdefault(connection.address, {})[connection] = None

    def _drop(self, connection: Connection) -> bool:
        if connection in self._known:
            del self._known[connection]
            return True
        same = self._strangers.get(connection.address, {})
        if connection not in same:
            return False
        del same[connection]
        if not same:
            del self._strangers[connection.address]
        return True
