"""Where images come from, by the scheme of a URL."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlsplit, urlunsplit

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources.allowed import AllowedSources
from holdfast.reimage.images.sources.ami import AmiSource
from holdfast.reimage.images.sources.base import (
    Opened,
    Reach,
    Source,
    SourceBusyError,
    SourceError,
    SourceTroubleError,
)
from holdfast.reimage.images.sources.file import FileSource
from holdfast.reimage.images.sources.s3 import S3Source

__all__ = [
    "AllowedSources",
    "Opened",
    "Reach",
    "Source",
    "SourceBusyError",
    "SourceError",
    "SourceTroubleError",
    "beside",
    "signature_of",
    "source_of",
]


def _http(url: str, reach: Reach) -> Source:
    from holdfast.reimage.images.sources.http import HttpSource  # noqa: PLC0415 - loads httpx

    return HttpSource(url, reach)


_BY_SCHEME: dict[str, Callable[[str, Reach], Source]] = {
    "http": _http,
    "https": _http,
    "file": FileSource,
    "s3": S3Source,
    "ami": AmiSource,
}


def source_of(url: str, reach: Reach) -> Source:
    """Choose the source of a URL. Raises `SourceError` for a URL that none understands."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise SourceError(Slug.INVALID_REQUEST, f"The URL is malformed: {error}.") from None
    if reach.allowed is not None:
        reach.allowed.check(url)
    make = _BY_SCHEME.get(scheme)
    if make is None:
        known = ", ".join(f"{name}://" for name in _BY_SCHEME)
        raise SourceError(
            Slug.INVALID_REQUEST,
            f"Images are fetched from {known} and not from {scheme or 'a path'}.",
        )
    return make(url, reach)


def beside(url: str, name: str) -> str:
    """Return the URL of the file `name` beside that of `url`."""
    parts = urlsplit(url)
    directory = parts.path.rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, f"{directory}/{quote(name)}", "", ""))


def signature_of(url: str) -> str:
    """Return the URL of a descriptor's signatures: its own with `.sig` at the path's end."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path}.sig", "", ""))
