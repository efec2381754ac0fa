"""Records in another form: written by a thread into a pipe, and read at its other end.

Nothing is stored, the pipe holds back a writer whose reader is slow, and a reader that closes its
end stops the writer.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress

from holdfast._engine import Progress

PIECE_BYTES = 256 << 10

Write = Callable[[int, Progress], None]
"""Writes all of it to a descriptor; raises what the engine raises."""


class Conversion:
    """One conversion. End it with `close`, whatever happens."""

    def __init__(self, write: Write) -> None:
        """Make the pipe; `run` is for another thread. Raises `OSError`."""
        self._write = write
        self._progress = Progress()
        self._lock = threading.Lock()
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._started = self._closed = False
        with suppress(OSError):  # a smaller one is slower
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, PIECE_BYTES)

    def fileno(self) -> int:
        """Return the end of the pipe to read from."""
        return self._reader

    def run(self) -> None:
        """Write all of it. Raises what the engine raises, `CancelledError` after `close`."""
        with self._lock:
            if self._closed:
                return
            self._started = True
        try:
            self._write(self._writer, self._progress)
        finally:
            os.close(self._writer)

    def close(self) -> None:
        """Stop the work, and close the pipe. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._started:
                os.close(self._writer)
        self._progress.cancel()
        # A thread that waits for space in the pipe is woken by this.
        os.close(self._reader)


def converted(write: Write) -> Iterator[bytes]:
    """Yield the pieces of a conversion made by a thread. Raises what the engine raises."""
    conversion = Conversion(write)
    ended: Future[None] = Future()

    def work() -> None:
        try:
            conversion.run()
        except BaseException as error:  # raised again where the pieces are read
            ended.set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=work, name="conversion", daemon=True)
    thread.start()
    try:
        while piece := os.read(conversion.fileno(), PIECE_BYTES):
            yield piece
        ended.result()
    finally:
        conversion.close()
        thread.join()
