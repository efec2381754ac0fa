"""Record files on their way out and in: streamed between disk and client, never held in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from holdfast.api.negotiation import choose
from holdfast.api.problems import refuse
from holdfast.api.services import Services
from holdfast.operations.model import Slug
from holdfast.pagecache.models import Dump

Format = Literal["native", "happycache"]

ZSTD, GZIP, BYTES = "application/zstd", "application/gzip", "application/octet-stream"
EXTENSIONS: dict[Format, str] = {"native": "zst", "happycache": "gz"}
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


def tag_of(dump: Dump, wanted: Format) -> str:
    """Name the bytes of a dump in a format: a record never changes once it has its id."""
    made = int(dump.created_at.timestamp() * 1000)
    name = f"{dump.id}-{made:x}-{dump.record_bytes:x}"
    # Weak for what is written anew for each request.
    return f'"{name}"' if wanted == "native" else f'W/"{name}-{wanted}"'


def representation(request: Request, wanted: Format | None) -> tuple[Format, str]:
    """Say which format to answer and the media type to call it."""
    accept = ", ".join(request.headers.getlist("accept"))
    if wanted is None:
        chosen: str = request.state.media_type
        return ("happycache" if chosen == GZIP else "native"), chosen
    offered = (GZIP if wanted == "happycache" else ZSTD, BYTES)
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


async def receive(services: Services, request: Request, dump_id: str) -> Dump:
    """Stream the body of a request to disk, check it, and store it under this id."""
    upload = await to_thread.run_sync(services.pagecache.receive, dump_id)
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
        return await to_thread.run_sync(upload.finish, dump_id)
    except BaseException:
        upload.abort()
        raise
