"""Fetching what is small: descriptors and their signatures."""

from __future__ import annotations

import hashlib

from holdfast._engine import Progress
from holdfast.operations.model import Slug
from holdfast.reimage.images.pump import Pump
from holdfast.reimage.images.retries import Patience, Retries, failed
from holdfast.reimage.images.sources import (
    Reach,
    Source,
    SourceError,
    SourceTroubleError,
    source_of,
)
from holdfast.signing.trust import SIGNATURES_LIMIT

DESCRIPTOR_LIMIT = 64 << 20
"""The largest descriptor that the engine reads, in bytes."""


def fetch_descriptor(
    url: str,
    sha256: str | None,
    *,
    reach: Reach,
    progress: Progress,
    patience: Patience | None = None,
    explain: bool = True,
) -> bytes:
    """Fetch a descriptor, and return it if it has this SHA-256, where one is stated.

    With `explain`, the error for another one names the SHA-256 that it has.

    Raises `OperationFailed` with the reason, or `CancelledError`.
    """
    data = _fetch(
        url,
        "A descriptor",
        DESCRIPTOR_LIMIT,
        reach=reach,
        progress=progress,
        patience=patience,
    )
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        which = f"is {found} and not {sha256}" if explain else f"is not {sha256}"
        raise failed(Slug.BAD_RECORD, f"The descriptor's SHA-256 {which}, as asked for.")
    return data


def fetch_signatures(
    url: str, *, reach: Reach, progress: Progress, patience: Patience | None = None
) -> bytes:
    """Fetch the signatures of a descriptor. Raises `OperationFailed`, `CancelledError`."""
    return _fetch(
        url,
        "A file of signatures",
        SIGNATURES_LIMIT,
        reach=reach,
        progress=progress,
        patience=patience,
    )


def _fetch(
    url: str,
    what: str,
    limit: int,
    *,
    reach: Reach,
    progress: Progress,
    patience: Patience | None,
) -> bytes:
    retries = Retries(patience or Patience(give_up_seconds=30.0), progress)
    while True:
        try:
            return _read(source_of(url, reach), what, limit, progress)
        except SourceTroubleError as error:
            try:
                retries.wait(error)
            except SourceError:
                raise failed(error.slug, error.detail) from error
        except SourceError as error:
            raise failed(error.slug, error.detail) from error


def _read(source: Source, what: str, limit: int, progress: Progress) -> bytes:
    pump = Pump(source, 0, None, progress)
    try:
        pump.start()
        data = bytearray()
        for chunk in pump.chunks():
            data += chunk
            if len(data) > limit:
                raise SourceError(Slug.TOO_LARGE, f"{what} has at most {limit} bytes.")
        return bytes(data)
    finally:
        pump.stop()
