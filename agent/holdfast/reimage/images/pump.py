"""Reads a source in a thread of its own, so that waiting for bytes can be cancelled at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from holdfast._engine import CancelledError, Progress
from holdfast.reimage.images.sources import Opened, Source

_WAITING = 32
"""Chunks that may wait to be taken; a source's are at most a mebibyte."""
_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Start:
    """The source's answer, before any bytes."""

    offset: int
    size: int | None
    validator: str | None


class Pump:
    """One reading of a source."""

    def __init__(
        self,
        source: Source,
        offset: int,
        validator: str | None,
        progress: Progress,
        still: Callable[[], None] | None = None,
    ) -> None:
        """`still` is called while the source is waited for, and may raise `SourceError`."""
        self._items: queue.Queue[Start | bytes | BaseException | None] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._progress = progress
        self._still = still
        self._source = source
        # A daemon thread: one that waits for a server must not keep the process from ending.
        thread = threading.Thread(
            target=self._run, args=(source, offset, validator), name="image source", daemon=True
        )
        thread.start()

    def start(self) -> Start:
        """Wait for the source's answer. Raises `SourceError`, `CancelledError`."""
        item = self._next()
        assert isinstance(item, Start)  # noqa: S101 - the thread puts it first, or an error
        return item

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes. Raises `SourceError`, `CancelledError`."""
        while isinstance(item := self._next(), bytes):
            yield item

    def stop(self) -> None:
        """Let the thread end; it waits for the server no longer."""
        self._stop.set()
        self._source.abort()

    def _next(self) -> Start | bytes | None:
        while True:
            if self._progress.cancelled:
                raise CancelledError("cancelled")
            if self._still is not None:
                self._still()
            try:
                item = self._items.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _run(self, source: Source, offset: int, validator: str | None) -> None:
        if self._stop.is_set():
            return
        try:
            with closing(source.open(offset, validator)) as opened:
                self._pass_on(opened)
        except BaseException as error:  # raised again in the thread that waits
            self._put(error)

    def _pass_on(self, opened: Opened) -> None:
        self._put(Start(opened.offset, opened.size, opened.validator))
        for chunk in opened.chunks():
            if not self._put(chunk):
                return
        self._put(None)

    def _put(self, item: Start | bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=_TICK_SECONDS)
            except queue.Full:
                continue
            return True
        return False
