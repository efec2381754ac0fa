"""What a source of images is: something that gives the bytes of a file from an offset on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from holdfast.operations.model import Slug
from holdfast.storage.roots import Roots

if TYPE_CHECKING:
    import ssl

    from holdfast.reimage.images.sources.allowed import AllowedSources

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)


class SourceError(Exception):
    """A source will not give the file; asking again changes nothing. The text is a sentence."""

    def __init__(self, slug: Slug, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail


class SourceTroubleError(SourceError):
    """A source cannot give the file now; it may later."""

    def __init__(self, detail: str) -> None:
        super().__init__(Slug.UNAVAILABLE, detail)


class SourceBusyError(SourceTroubleError):
    """A source gives to as many as it can, and asks to come back."""


@dataclass(frozen=True)
class Reach:
    """What sources may use of this node."""

    places: Roots | None = None
    """Where `file://` may lead; nowhere if there is none."""
    ca_file: Path | None = None
    """Certificate authorities to trust in place of the system's."""
    allowed: AllowedSources | None = None
    """Where URLs may lead, redirects included; anywhere if there is none."""
    guarded: bool = False
    """Never to addresses of this machine and the like, unless `allowed` names them."""
    trust: ssl.SSLContext | None = None
    """Used for TLS in place of what `ca_file` makes."""
    token: str | None = None
    """A bearer token, which only the host of the URL itself receives, never one redirected to."""


class Opened(Protocol):
    """A file that is being given, until it is closed."""

    @property
    def offset(self) -> int:
        """Where the bytes begin: as asked for, or 0 where the file changed or cannot be resumed."""

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, if the source reports them."""

    @property
    def validator(self) -> str | None:
        """What changes when the file changes, if the source has such a thing."""

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes as they come. Raises `SourceError`."""

    def close(self) -> None:
        """Release it; nothing is yielded any more."""


class Source(Protocol):
    """One file, somewhere."""

    def open(self, offset: int, validator: str | None) -> Opened:
        """Begin to give the file from `offset` on, if its validator is still this one.

        Raises `SourceError`, of which `SourceTroubleError` may pass.
        """

    def abort(self) -> None:
        """Break off the newest opening, in whatever thread; another may follow."""


def range_total(header: str, offset: int, name: str) -> int | None:
    """Read a `Content-Range` (RFC 9110, 14.4): bytes of the whole file, None if not stated.

    Raises `SourceError` if it is of another range than from `offset` on; `name` is for its message.
    """
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None or int(match[1]) != offset:
        raise SourceError(Slug.UNAVAILABLE, f"{name} answers with another range than asked for.")
    return None if match[2] == "*" else int(match[2])
