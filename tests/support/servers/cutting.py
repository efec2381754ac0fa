"""A proxy that breaks every connection off, sooner or later, in either direction."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RESET = struct.pack("ii", 1, 0)
_MOST_BYTES = 3000
"""Of one direction, before it is cut: several requests, or one answer and a part of the next."""


class CuttingProxy:
    """Forwards a port to another one; `cuts` counts the connections that it broke."""

    def __init__(self, port: int, seed: int, most_bytes: int) -> None:
        self._target = ("127.0.0.1", port)
        self._random = random.Random(seed)
        self._most_bytes = most_bytes
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _forward(self, near: socket.socket) -> None:
        with self._lock:
            upwards = self._random.random() < 0.5
            limit = self._random.randrange(self._most_bytes)
            reset = self._random.random() < 0.5
        # Nothing may listen there at the moment: then this one is cut before its first byte.
        with suppress(OSError), near, socket.create_connection(self._target) as far:
            back = threading.Thread(
                target=self._pump, args=(far, near, None if upwards else limit, reset)
            )
            back.start()
            self._pump(near, far, limit if upwards else None, reset)
            back.join()

    def _pump(
        self, source: socket.socket, sink: socket.socket, limit: int | None, reset: bool
    ) -> None:
        with suppress(OSError):
            while piece := source.recv(4096):
                if limit is not None and len(piece) >= limit:
                    sink.sendall(piece[:limit])
                    with self._lock:
                        self.cuts += 1
                    break
                sink.sendall(piece)
                limit = None if limit is None else limit - len(piece)
        for end in (source, sink):
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(port: int, seed: int, *, most_bytes: int = _MOST_BYTES) -> Iterator[CuttingProxy]:
    """Run a proxy in front of a port until the end of the block."""
    proxy = CuttingProxy(port, seed, most_bytes)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
