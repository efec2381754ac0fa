"""What happened to the settings, for callers that poll or listen."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from holdfast.operations.model import now
from holdfast.tuning.models import Event

log = logging.getLogger(__name__)

_KEPT = 200
_LOUD = frozenset({"drifted", "contested", "failed", "recovered"})


class Events:
    """The last events, and all that listen. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._listeners: dict[asyncio.Queue[Event], asyncio.AbstractEventLoop] = {}

    def add(
        self, kind: str, message: str, *, profile: str | None = None, settings: Sequence[str] = ()
    ) -> None:
        """Send an event to all listeners, and log it."""
        event = Event.model_validate(
            {
                "time": now(),
                "kind": kind,
                "message": message,
                "profile": profile,
                "settings": list(settings),
            }
        )
        log.log(logging.WARNING if kind in _LOUD else logging.INFO, "%s", message)
        with self._lock:
            self._kept.append(event)
            for queue, loop in list(self._listeners.items()):
                try:
                    loop.call_soon_threadsafe(queue.put_nowait, event)
                except RuntimeError:  # the loop was closed with its listeners still on it
                    del self._listeners[queue]

    def latest(self, limit: int = 50) -> list[Event]:
        """Return the last events, newest first."""
        with self._lock:
            return list(self._kept)[: -limit - 1 : -1]

    async def listen(self) -> AsyncGenerator[Event, None]:
        """Yield events from now on, without end."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        with self._lock:
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            while True:
                yield await queue.get()
        finally:
            with self._lock:
                self._listeners.pop(queue, None)
