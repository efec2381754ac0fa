"""Record files on their way out and in: streamed between disk and client, never held in memory."""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from holdfast.api.http.callers.auth import Caller, peer_in
from holdfast.api.http.negotiation import choose
from holdfast.api.http.problems import refuse
from holdfast.api.http.work import Pace, Pool, act, run, work_of
from holdfast.operations.model import Slug
from holdfast.records.store import Stored
from holdfast.records.uploads import Upload

log = logging.getLogger(__name__)

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


class Sending(StreamingResponse, ABC):
    """Streams pieces to a client, and breaks off one that is too slow."""

    def __init__(
        self,
        request: Request,
        pieces: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._request = request

    async def stream_response(self, send: Send) -> None:
        """Send the pieces, then let go of what they come from."""
        pace = Pace()

        async def paced(message: Message) -> None:
            async with pace.waiting(len(message.get("body", b""))):
                await send(message)

        try:
            await super().stream_response(paced)
        except TimeoutError:
            log.warning(
                "%s: %s takes less than %d bytes in %g s; its connection is broken off",
                self._request.url.path,
                peer_in(self._request.scope).address,
                Pace.BYTES,
                Pace.SECONDS,
            )
            self._request.scope["state"]["connection"].abort()
            # The connection is lost in a later turn of the loop.
            await asyncio.sleep(0.01)
        finally:
            self.release()

    @abstractmethod
    def release(self) -> None:
        """Release what the pieces come from. Idempotent."""


class RecordResponse(Sending):
    """Streams an open record file, and closes it however that ends."""

    def __init__(
        self, request: Request, record: Record, *, name: str, tag: str, media_type: str
    ) -> None:
        headers = file_headers(name, tag) | {"Content-Length": str(record.size)}
        super().__init__(request, _chunks(request, record), media_type=media_type, headers=headers)
        self._record = record

    def release(self) -> None:
        """Close the file."""
        self._record.close()


def file_headers(name: str, tag: str) -> dict[str, str]:
    """Return the headers of an answer that is a file."""
    return {
        "ETag": tag,
        "Vary": "Accept",
        "Content-Disposition": f'attachment; filename="{name}"',
    }


async def _chunks(request: Request, record: Record) -> AsyncIterator[bytes]:
    left = record.size
    while left > 0:
        chunk = await act(request, record.read, Pool.READS)
        if not chunk:
            raise OSError(f"the record file ended {left} bytes early")
        left -= len(chunk)
        yield chunk


def open_record(content: AbstractContextManager[Path]) -> Record:
    """Open a record file."""
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
    """Return the form to send and its media type.

    `forms` has the media type of each, by preference; `application/octet-stream` means any form:
    that requested by name, or else the first.
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
    given = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return tag.removeprefix("W/") in given or "*" in given


async def receive(
    request: Request, caller: Caller, begin: Callable[[], Upload[R]], record_id: str
) -> R:
    """Stream the body of a request to disk, check it, and store it under this id.

    Raises `ProblemError` while there are too many uploads, and for a client that sends too slowly.
    """
    async with work_of(request).uploads.turn(caller.name):
        upload = await act(request, begin, Pool.UPLOADS)
        try:
            await _take(request, upload)
            return await run(request, Pool.UPLOADS, partial(upload.finish, record_id))
        except BaseException:
            upload.abort()
            raise


async def _take(request: Request, upload: Upload[R]) -> None:
    pending = bytearray()
    pace = Pace()
    body = aiter(request.stream())
    try:
        while True:
            async with pace.waiting():
                chunk = await anext(body, None)
            if chunk is None:
                break
            pace.moved(len(chunk))
            pending += chunk
            # In big pieces: each costs a change of thread.
            if len(pending) >= _CHUNK_BYTES:
                await act(request, partial(upload.write, bytes(pending)), Pool.UPLOADS)
                pending.clear()
    except TimeoutError:
        raise refuse(
            Slug.INTERRUPTED,
            f"Less than {Pace.BYTES} bytes of the body came within {Pace.SECONDS:g} s; send it "
            "again, faster.",
            headers={"Connection": "close"},
        ) from None
    if pending:
        await act(request, partial(upload.write, bytes(pending)), Pool.UPLOADS)
