"""Record files on their way out and in: streamed between disk and client, never held in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from holdfast.api.negotiation import choose
from holdfast.api.problems import refuse
from holdfast.operations.model import Slug
from holdfast.records.store import Stored
from holdfast.records.uploads import Upload

R = TypeVar("R", bound=Stored)

ZSTD, GZIP, BYTES = "application/zstd", "application/gzip", "application/octet-stream"
_CHUNK_BYTES = 1 << 20


@dataclass
class Record:
    """An open record file."""

    file: BinaryIO
    size: int
    resources: ExitStack

    def read(self) -> bytes:
        """Read the next piece; empty at the end."""
        return self.file.read(_CHUNK_BYTES)

    def close(self) -> None:
        """Close the file, and let what it came from go. Idempotent."""
        self.resources.close()


class RecordResponse(StreamingResponse):
    """Streams an open record file, and closes it however that ends."""

    def __init__(self, record: Record, *, name: str, tag: str, media_type: str) -> None:
        headers = {
            "ETag": tag,
            "Vary": "Accept",
            "Content-Length": str(record.size),
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        super().__init__(_chunks(record), media_type=media_type, headers=headers)
        self._record = record

    async def stream_response(self, send: Send) -> None:
        """Send the file."""
        try:
            await super().stream_response(send)
        finally:
            self._record.close()


async def _chunks(record: Record) -> AsyncIterator[bytes]:
    left = record.size
    while left > 0:
        chunk = await to_thread.run_sync(record.read)
        if not chunk:
            raise OSError(f"the record file ended {left} bytes early")
        left -= len(chunk)
        yield chunk


def open_record(content: AbstractContextManager[Path]) -> Record:
    """Open a record file; blocks, for as long as its conversion takes if there is one."""
    with ExitStack() as resources:
        path = resources.enter_context(content)
        file = resources.enter_context(path.open("rb"))
        return Record(file, os.fstat(file.fileno()).st_size, resources.pop_all())


def tag_of(record_id: str, created_at: datetime, record_bytes: int, form: str) -> str:
    """Name the bytes of a record in a form: a record never changes once it has its id."""
    made = int(created_at.timestamp() * 1000)
    name = f"{record_id}-{made:x}-{record_bytes:x}"
    # Weak for what is written anew for each request.
    return f'"{name}"' if form == "native" else f'W/"{name}-{form}"'


def representation(
    request: Request, wanted: str | None, forms: Mapping[str, str]
) -> tuple[str, str]:
    """Say which form to answer and the media type to call it.

    `forms` has the media type of each, by preference; `application/octet-stream` stands for any
    form, and without a form that is asked for by name for the first.
    """
    accept = ", ".join(request.headers.getlist("accept"))
    if wanted is None:
        chosen: str = request.state.media_type
        form = next((form for form, known in forms.items() if known == chosen), next(iter(forms)))
        return form, chosen
    offered = (forms[wanted], BYTES)
    media_type = choose(accept, offered)
    if media_type is None:
        raise refuse(
            Slug.NOT_ACCEPTABLE,
            f"`format={wanted}` is {offered[0]}, which `Accept` does not take.",
        )
    return wanted, media_type


def client_has(if_none_match: str | None, tag: str) -> bool:
    """Whether an If-None-Match header has the tag."""
    given = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    return tag.removeprefix("W/") in given or "*" in given


async def receive(request: Request, begin: Callable[[], Upload[R]], record_id: str) -> R:
    """Stream the body of a request to disk, check it, and store it under this id."""
    upload = await to_thread.run_sync(begin)
    try:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            # In big pieces: each costs a change of thread.
            if len(pending) >= _CHUNK_BYTES:
                await to_thread.run_sync(upload.write, bytes(pending))
                pending.clear()
        if pending:
            await to_thread.run_sync(upload.write, bytes(pending))
        return await to_thread.run_sync(upload.finish, record_id)
    except BaseException:
        upload.abort()
        raise
