"""What a source of images is: something that gives the bytes of a file from an offset on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from holdfast.operations.model import Slug
from holdfast.places import Places


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


@dataclass(frozen=True)
class Reach:
    """What sources may use of this node."""

    places: Places | None = None
    """Where `file://` may lead; nowhere if there is none."""
    ca_file: Path | None = None
    """Certificate authorities to trust in place of the system's."""


class Opened(Protocol):
    """A file that is being given. Leaving it as a context ends that."""

    @property
    def offset(self) -> int:
        """Where the bytes begin: as asked for, or 0 where the file changed or cannot be resumed."""

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, if the source tells."""

    @property
    def validator(self) -> str | None:
        """What changes when the file changes, if the source has such a thing."""

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes as they come. Raises `SourceError`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """One file, somewhere."""

    def open(self, offset: int, validator: str | None) -> Opened:
        """Begin to give the file from `offset` on, if its validator is still this one.

        Raises `SourceError`, of which `SourceTroubleError` may pass.
        """
