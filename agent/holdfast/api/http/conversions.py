"""Records in another form: streamed to the client while they are made, and stored nowhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from anyio import wait_readable
from starlette.requests import Request
from starlette.types import Send

from holdfast.api.http.callers.auth import Caller
from holdfast.api.http.records import Sending, file_headers
from holdfast.api.http.work import Pool, attended, work_of
from holdfast.records.conversions import PIECE_BYTES, Conversion, Write


class Running:
    """A started conversion: its output, the thread that makes it, its turn."""

    def __init__(self, made: Conversion, ended: asyncio.Future[None], turn: AsyncExitStack) -> None:
        self._made = made
        self._ended = ended
        self._turn = turn
        self._first = b""

    async def begin(self) -> None:
        """Wait for the first piece. Raises what the engine raises before there is one."""
        self._first = await self._read()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces. Raises what the engine raises."""
        piece = self._first
        while piece:
            yield piece
            piece = await self._read()

    async def end(self) -> None:
        """Stop the work, and give the turn back. Idempotent."""
        self.stop()
        await self._turn.aclose()

    def stop(self) -> None:
        """Stop the work. Idempotent."""
        self._made.close()
        self._ended.cancel()

    async def _read(self) -> bytes:
        await wait_readable(self._made.fileno())
        piece = os.read(self._made.fileno(), PIECE_BYTES)
        if not piece:
            await self._ended
        return piece


class ConversionResponse(Sending):
    """Streams a conversion.

    One that cannot be made to its end breaks the connection off: half of a record must not look
    whole.
    """

    def __init__(
        self, request: Request, running: Running, *, name: str, tag: str, media_type: str
    ) -> None:
        pieces, headers = running.pieces(), file_headers(name, tag)
        super().__init__(request, pieces, media_type=media_type, headers=headers)
        self._running = running

    async def stream_response(self, send: Send) -> None:
        """Send the pieces, then end the conversion."""
        try:
            await super().stream_response(send)
        finally:
            await self._running.end()

    def release(self) -> None:
        """Stop the work."""
        self._running.stop()


async def convert(request: Request, caller: Caller, write: Write) -> Running:
    """Begin a conversion, and return once it has something to send.

    Raises what the engine raises until then, and `ProblemError` while there are too many.
    """
    work = work_of(request)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(work.conversions.turn(caller.name, request))
        made = Conversion(write)
        running = Running(made, work.submit(Pool.CONVERSIONS, made.run), stack.pop_all())
    try:
        await attended(request, asyncio.ensure_future(running.begin()))
    except BaseException:
        await running.end()
        raise
    return running
