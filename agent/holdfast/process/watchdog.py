"""Feeds systemd's watchdog, as long as the event loop that answers requests turns.

A thread asks the loop and waits for its answer. So a turn that takes long is reported by the next
beat, right after it, rather than by the beat after the next one; and a loop that has stopped is not
reported as alive, whatever the thread does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from holdfast.process import logs

log = logging.getLogger(__name__)

_LATE_SECONDS = 1.0
_ASKED_PER_BEAT = 2


class Watchdog:
    """A thread that asks one event loop whether it turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """`seconds` is half of systemd's limit: the loop has as long for an answer."""
        self._loop = loop
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @classmethod
    def start(cls, loop: asyncio.AbstractEventLoop) -> Watchdog | None:
        """Start one if systemd wants to be notified, else return None."""
        seconds = logs.watchdog_seconds()
        if seconds is None:
            return None
        watchdog = cls(loop, seconds)
        watchdog._thread.start()
        return watchdog

    def stop(self) -> None:
        """Stop asking. Returns at once."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            asked = time.monotonic()
            if not self._answers():
                return
            seconds = time.monotonic() - asked
            if seconds > _LATE_SECONDS:
                log.warning("the event loop answered after %.1f s", seconds)
            logs.notify("WATCHDOG=1")
            self._stop.wait(max(0.0, self._seconds / _ASKED_PER_BEAT - seconds))

    def _answers(self) -> bool:
        """Wait until the loop has run what it was asked to; False once there is nothing to ask.

        The deadline only leads to a line in the log: that an answer is late is systemd's to judge.
        """
        answer = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answer.set)
        except RuntimeError:  # the loop is closed
            return False
        late = False
        while not answer.wait(self._seconds):
            if self._stop.is_set():
                return False
            if not late:
                log.error("the event loop has not answered for %.1f s", self._seconds)
                late = True
        return True
