"""The rollout's page outside of the demo's network namespace: bytes passed on, both ways.

A socket belongs to the namespace that it was made in. One that listens on the spectator's loopback
is inherited into the demo's, where the page is on another loopback, at the same port.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PORT = 9919
_PATIENCE = 0.2
_CHUNK = 1 << 16


def listening() -> socket.socket:
    """Return a listening socket on loopback: at `PORT`, or where that is taken at another."""
    for port in (PORT, 0):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise OSError("no port of 127.0.0.1 is free for the rollout's page")


@contextmanager
def relayed(outside: socket.socket) -> Iterator[None]:
    """Relay connections to the same port of this process's loopback until the end of the block.

    Connections wait until something has listened there for the first time; later they are closed
    while nothing does, as they would be without a relay. Closes the socket.
    """
    loop = asyncio.new_event_loop()
    relay = _Relay(outside)
    thread = threading.Thread(target=loop.run_until_complete, args=(relay.run(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(relay.end.set)
        thread.join()
        loop.close()


class _Relay:
    def __init__(self, outside: socket.socket) -> None:
        self.end = asyncio.Event()
        self._outside = outside
        self._port = int(outside.getsockname()[1])
        self._served = False
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._outside)
        await self.end.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError):
                inner_reader, inner_writer = await self._connect()
                try:
                    sending = asyncio.create_task(_copy(reader, inner_writer))
                    # The page ends each connection with its answer.
                    await _copy(inner_reader, writer)
                    sending.cancel()
                finally:
                    inner_writer.close()
        except asyncio.CancelledError:
            pass  # the demo ends
        finally:
            writer.close()
            self._connections.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                connected = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:  # refused, or the network is not up yet
                if self._served:
                    raise
                await asyncio.sleep(_PATIENCE)
            else:
                self._served = True
                return connected


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
