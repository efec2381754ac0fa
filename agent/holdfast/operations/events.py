"""Carries news of an operation from runner threads to any number of asyncio listeners.

A listener waits on an event of its own loop: nothing polls, and each publication costs one call
into each loop however many listen. A listener that is slow skips reports of mere progress, never
a change of state.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable

from holdfast.operations.model import Operation


class Listener:
    """One reader of one channel, used from the loop it was made in."""

    def __init__(self, *, progress: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.progress = progress
        """Whether it wants to hear of progress as well as of changes of state."""
        self._news: deque[Operation] = deque()
        self._ready = asyncio.Event()
        self._ended = False

    async def next(self) -> Operation | None:
        """Wait for the next report; None once the last one was taken."""
        while not self._news:
            if self._ended:
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._news.popleft()

    def push(self, operation: Operation, *, end: bool) -> None:
        """Take a report; called in the loop."""
        if self._ended:
            return
        if self._news and self._news[-1].state is operation.state:
            self._news.pop()
        self._news.append(operation)
        self._ended = end
        self._ready.set()


class Channel:
    """The news of one operation."""

    def __init__(self, operation: Operation) -> None:
        self._lock = threading.Lock()
        self._latest = operation
        self._ended = False
        self._listeners: dict[asyncio.AbstractEventLoop, set[Listener]] = {}

    @property
    def wants_progress(self) -> bool:
        """Whether anybody listens for progress."""
        with self._lock:
            return any(listener.progress for some in self._listeners.values() for listener in some)

    @property
    def listening(self) -> int:
        """How many listen."""
        with self._lock:
            return sum(len(some) for some in self._listeners.values())

    def subscribe(self, listener: Listener) -> None:
        """Begin to listen, with what is known now; called in the listener's loop."""
        with self._lock:
            listener.push(self._latest, end=self._ended)
            if not self._ended:
                self._listeners.setdefault(listener.loop, set()).add(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop listening. Idempotent."""
        with self._lock:
            some = self._listeners.get(listener.loop)
            if some is not None:
                some.discard(listener)
                if not some:
                    del self._listeners[listener.loop]

    def publish(self, operation: Operation, *, end: bool = False) -> None:
        """Send to all listeners, from any thread; nothing is sent after the `end`."""
        with self._lock:
            if self._ended:
                return
            changed = end or operation.state is not self._latest.state
            self._latest, self._ended = operation, end
            for loop, some in list(self._listeners.items()):
                audience = [listener for listener in some if changed or listener.progress]
                try:
                    if audience:
                        loop.call_soon_threadsafe(_deliver, audience, operation, end)
                except RuntimeError:
                    # The loop was closed with its listeners still on it: nobody is there.
                    del self._listeners[loop]
            if end:
                self._listeners.clear()


def _deliver(audience: Iterable[Listener], operation: Operation, end: bool) -> None:
    for listener in audience:
        listener.push(operation, end=end)
