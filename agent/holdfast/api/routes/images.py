"""Routes by which other nodes download the image that is staged here."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import Path, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from holdfast.api.contract.documents import problems_of
from holdfast.api.contract.routing import Router, spec
from holdfast.api.http.callers.auth import caller_in
from holdfast.api.http.callers.tokens import Scope
from holdfast.api.http.problems import ProblemError, refuse
from holdfast.api.http.records import BYTES, Sending
from holdfast.api.http.rendering import JsonResponse
from holdfast.api.http.work import Pool, act, work_of
from holdfast.api.routes.reimage import ReimageDep
from holdfast.operations.model import Slug
from holdfast.reimage.images.sharing import ImageSharing, SharedImage
from holdfast.reimage.service import Reimage

router = Router(
    prefix="/v1/images",
    tag="images",
    about="The staged image, for other nodes that are to become it.",
    features=("images",),
)

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})", re.ASCII)
Digest = Annotated[
    str,
    Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the image's file, by its descriptor."),
]


@router.get(
    "/{sha256}",
    operation_id="getImage",
    summary="Show how much of an image this node has",
    response_model=SharedImage,
    responses=problems_of(404),
)
@spec(Scope.IMAGES)
async def get_image(reimage: ReimageDep, request: Request, sha256: Digest) -> Response:
    """Return whether the image is staged here or on its way; 404 unless it is served."""
    sharing = _served_at_all(reimage)
    found = await act(request, partial(sharing.describe, sha256), Pool.READS)
    if found is None:
        raise _missing(sha256)
    return JsonResponse(found)


@router.get(
    "/{sha256}/content",
    operation_id="getImageContent",
    summary="Download an image",
    response_class=Response,
    responses={
        200: {
            "description": "The file of the image, from its first byte.",
            "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
        },
        206: {
            "description": "The part that `Range` asked for.",
            "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems_of(404),
    },
)
@spec(Scope.IMAGES, produces=(BYTES,))
async def get_image_content(
    reimage: ReimageDep,
    request: Request,
    sha256: Digest,
) -> Response:
    """Send the staged file as stored, or one range of it (`Range: bytes=N-`, `If-Range`).

    At most four downloads at a time, within `reimage.serve_bytes_per_second`: 503 otherwise.
    Compare what arrives with the descriptor: nothing else proves it.
    """
    sharing = _served_at_all(reimage)
    opened = await act(request, partial(sharing.open, sha256), Pool.READS)
    if opened is None:
        raise _missing(sha256)
    file, size = opened
    try:
        tag = f'"{sha256}"'
        same = request.headers.get("If-Range") in (None, tag)
        wanted = _range(request.headers.get("Range"), size) if same else None
        start, end = wanted or (0, size)
        headers = {
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return _ImageResponse(sharing, request, file, (start, end), headers)
    except BaseException:
        os.close(file)
        raise


class _ImageResponse(Sending):
    """Streams a range of an open file, within the bounds of all downloads."""

    def __init__(
        self,
        sharing: ImageSharing,
        request: Request,
        file: int,
        wanted: tuple[int, int],
        headers: dict[str, str],
    ) -> None:
        super().__init__(request, self._pieces(request, *wanted), media_type=BYTES, headers=headers)
        self.status_code = 206 if "Content-Range" in headers else 200
        self._sharing = sharing
        self._file = file

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Wait for a turn, and send. Raises `ProblemError` if there is none."""
        try:
            async with work_of(self._request).images.turn(_caller(self._request)):
                await super().__call__(scope, receive, send)
        finally:
            self.release()

    async def _pieces(self, request: Request, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            count = min(_CHUNK_BYTES, end - start)
            if self._sharing.pace is not None:
                await self._sharing.pace.take(count)
            piece = await act(request, partial(_read, self._file, start, count), Pool.IMAGES)
            if not piece:
                raise OSError(f"the image ended {end - start} bytes early")
            self._sharing.served(len(piece))
            start += len(piece)
            yield piece

    def release(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _caller(request: Request) -> str:
    caller = caller_in(request.scope)
    return caller.name if caller is not None else ""


def _read(file: int, start: int, count: int) -> bytes:
    piece = os.pread(file, count, start)
    # The cache is the datastore's.
    os.posix_fadvise(file, start, count, os.POSIX_FADV_DONTNEED)
    return piece


def _range(text: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes that a `Range` asks for; None for all of them.

    What is not one range of bytes that are there is ignored, as RFC 9110, 14.2 permits.
    """
    match = _RANGE.fullmatch((text or "").strip())
    if match is None:
        return None
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None


def _served_at_all(reimage: Reimage) -> ImageSharing:
    if not reimage.sharing.enabled:
        raise refuse(
            Slug.NOT_FOUND,
            "This node gives no images away; set `reimage.serve_images` to change that.",
        )
    return reimage.sharing


def _missing(sha256: str) -> ProblemError:
    return refuse(Slug.NOT_FOUND, f"The image of SHA-256 {sha256} is not on this node.")
