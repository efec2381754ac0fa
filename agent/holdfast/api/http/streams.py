"""Waiting on behalf of a client: long polls and event streams that end when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from holdfast.api.http.rendering import progress_line, to_json
from holdfast.api.http.work import gone
from holdfast.operations.model import Operation

EVENT_STREAM = "text/event-stream"
NDJSON = "application/x-ndjson"
TEXT = "text/plain"
EVENT_TYPES = (EVENT_STREAM, NDJSON, TEXT)

HEARTBEAT_SECONDS = 10.0
"""A comment is sent after this long without news, so that dead connections are found."""
_RETRY_MILLISECONDS = 1000
_MANY = 100
"""A result with a list of more entries takes too long to be written in the loop."""

T = TypeVar("T")
Writer = Callable[[AsyncIterator[T | None]], AsyncIterator[bytes]]
"""Makes bytes of events; None marks a silence."""


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`, or cancel it and answer None once the client hangs up or the server stops."""
    stopping: asyncio.Event = request.app.state.stopping
    task = asyncio.ensure_future(work)
    ends = [asyncio.ensure_future(gone(request)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for waited in (task, *ends):
            waited.cancel()
        await asyncio.gather(task, *ends, return_exceptions=True)


class EventStream(StreamingResponse):
    """Streams events in one of `EVENT_TYPES`, and cleans up however it ends."""

    def __init__(
        self,
        events: AsyncIterator[T],
        media_type: str,
        stopping: asyncio.Event,
        writers: Mapping[str, Writer[T]] | None = None,
    ) -> None:
        """`writers` make bytes of the events; without, events are operations."""
        writer: Writer[Any] = (writers or _WRITERS)[media_type]
        chunks = writer(_with_silences(events, stopping))
        super().__init__(
            chunks,
            media_type=media_type,
            # Proxies that buffer would hold back what is meant for now.
            headers={"X-Accel-Buffering": "no"},
        )
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events, then make sure that nothing listens any more."""
        iterator = self.body_iterator
        try:
            await super().stream_response(send)
        finally:
            for generator in (iterator, self._events):
                close = getattr(generator, "aclose", None)
                if close is not None:
                    await close()


async def _with_silences(
    events: AsyncIterator[T], stopping: asyncio.Event
) -> AsyncIterator[T | None]:
    """Yield events, None for each long silence; end with the events or when the server stops."""
    stopped = asyncio.ensure_future(stopping.wait())
    coming: asyncio.Future[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            either: set[asyncio.Future[Any]] = {coming, stopped}
            done, _ = await asyncio.wait(
                either, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if coming in done:
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield event
            elif stopped in done:
                return
            else:
                yield None
    finally:
        stopped.cancel()
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming


async def _event_stream(events: AsyncIterator[Operation | None]) -> AsyncIterator[bytes]:
    """Server-sent events: `state` when the state changed, else `progress`; `end` is the last."""
    number = 0
    state = None
    yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
    async with aclosing(events) as reports:  # type: ignore[type-var]
        async for operation in reports:
            if operation is None:
                yield b": still here\n\n"
                continue
            number += 1
            name = "progress" if operation.state is state else "state"
            name = "end" if operation.state.final else name
            state = operation.state
            # The id shows whether there will be more: see `ended_with`.
            head = f"id: {number}.{state.value}\nevent: {name}\ndata: ".encode()
            yield head + await _line(operation) + b"\n"


async def _ndjson(events: AsyncIterator[Operation | None]) -> AsyncIterator[bytes]:
    async with aclosing(events) as reports:  # type: ignore[type-var]
        async for operation in reports:
            # Readers of this format skip empty lines.
            yield b"\n" if operation is None else await _line(operation)


async def _line(operation: Operation) -> bytes:
    """Write an operation on one line; in a thread if its result may be megabytes."""
    parts = (operation.result or {}).values()
    if not any(isinstance(part, list) and len(part) > _MANY for part in parts):
        return to_json(operation, indent=None)
    return await to_thread.run_sync(partial(to_json, operation, indent=None))


async def _text(events: AsyncIterator[Operation | None]) -> AsyncIterator[bytes]:
    async with aclosing(events) as reports:  # type: ignore[type-var]
        async for operation in reports:
            if operation is not None:
                moment = datetime.now().astimezone()
                yield f"{progress_line(operation, moment)}\n".encode()


_WRITERS = {EVENT_STREAM: _event_stream, NDJSON: _ndjson, TEXT: _text}
