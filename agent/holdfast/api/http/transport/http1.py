"""HTTP/1.1 with bounds: what one request head, and one turn of the event loop, may cost.

A head is measured before it is parsed, since parsing takes time for each line. What a client sends
at once (up to 256 KiB) may hold thousands of requests or of chunks: these are taken in turns.
"""

from __future__ import annotations

from collections.abc import Callable

import h11

MAX_HEAD_BYTES = 16 << 10
"""Request line and headers together."""
MAX_LINE_BYTES = 8 << 10
"""The request line alone."""
MAX_HEADERS = 100
EVENTS_PER_TURN = 200


class BoundedConnection(h11.Connection):
    """The server's side of a connection. Raises `h11.RemoteProtocolError` beyond a bound."""

    def __init__(self, on_pause: Callable[[], None]) -> None:
        """`on_pause` is called once a turn has had its share; it should lead to `next_turn`."""
        # The bound of h11 holds for chunk headers as well, but not for heads that come whole.
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal: str | None = None
        """Which bound a request is beyond."""
        self._on_pause = on_pause
        self._left = EVENTS_PER_TURN

    def release(self) -> None:
        """Keep nothing of the protocol, once the connection has ended."""
        self._on_pause = lambda: None

    def next_turn(self) -> None:
        """Allow another share of events."""
        self._left = EVENTS_PER_TURN

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event as h11 does; `NEED_DATA` also at the end of a turn's share."""
        if self._left <= 0:
            self._on_pause()
            return h11.NEED_DATA
        if self.their_state is h11.IDLE:
            self._refuse(_head_beyond_bounds(self.trailing_data[0]))
        event = super().next_event()
        if event is not h11.NEED_DATA and event is not h11.PAUSED:
            self._left -= 1
        if isinstance(event, h11.Request):
            self._refuse(_ambiguous(event))
        return event

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            self.refusal = reason
            raise h11.RemoteProtocolError(reason)


def _head_beyond_bounds(received: bytes) -> str | None:
    """Return which bound a head exceeds, before it is complete where that is so already."""
    # A line may end with LF alone, and a head with an empty line of either kind.
    ends = [
        found
        for end in (b"\n\r\n", b"\n\n")
        if (found := received.find(end, 0, MAX_HEAD_BYTES + 4)) >= 0
    ]
    head = received[: min(ends)] if ends else received
    if len(head) > MAX_HEAD_BYTES:
        return f"The headers are larger than {MAX_HEAD_BYTES} bytes."
    line = head.find(b"\n", 0, MAX_LINE_BYTES + 1)
    if line < 0 and len(head) > MAX_LINE_BYTES:
        return f"The request line is longer than {MAX_LINE_BYTES} bytes."
    if head.count(b"\n") > MAX_HEADERS:
        return f"The request has more than {MAX_HEADERS} headers."
    return None


def _ambiguous(request: h11.Request) -> str | None:
    """Return why two servers could read two different requests here (RFC 9112, section 6.1)."""
    names = {name for name, _ in request.headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        return "Content-Length and Transfer-Encoding must not be used together."
    return None
