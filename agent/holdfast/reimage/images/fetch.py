"""Bringing an image to this node: resumable, bounded, and only named `image` once it is proven."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from holdfast._engine import CancelledError, Progress
from holdfast.operations.model import OperationFailed, Problem, Slug
from holdfast.reimage.images.kinds import verify
from holdfast.reimage.images.models import Content, VerifyParams
from holdfast.reimage.images.partial import Partial
from holdfast.reimage.images.pump import Pump
from holdfast.reimage.images.sources import (
    Reach,
    Source,
    SourceError,
    SourceTroubleError,
    source_of,
)

DESCRIPTOR_LIMIT = 64 << 20
"""The largest descriptor that the engine reads, in bytes."""
SPACE_MARGIN = 64 << 20
"""What is left free of a file system beside an image, in bytes."""
_WHOLE_TRIES = 3
"""How often a file is fetched whole that turns out not to be what was described."""


@dataclass(frozen=True)
class Patience:
    """How to deal with a source that is in trouble."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    """Waits double from the first to this."""
    give_up_seconds: float = 600.0
    """Without a new byte for so long, the source is given up."""


class Retries:
    """Waits between attempts, until patience ends."""

    def __init__(self, patience: Patience, progress: Progress) -> None:
        self._patience = patience
        self._progress = progress
        self._best = -1
        self.came_on(0)

    def came_on(self, length: int) -> None:
        """Note how far it has come. Only what was not there before is a reason to be patient."""
        if length > self._best:
            self._best = length
            self._since = time.monotonic()
            self._wait = self._patience.first_seconds

    def wait(self, error: SourceTroubleError) -> None:
        """Wait before the next attempt. Raises the error itself once patience has ended."""
        left = self._since + self._patience.give_up_seconds - time.monotonic()
        if left <= 0:
            raise error
        until = time.monotonic() + min(self._wait, left)
        self._wait = min(self._wait * 2, self._patience.most_seconds)
        while (seconds := until - time.monotonic()) > 0:
            check(self._progress)
            time.sleep(min(seconds, 0.1))


def fetch(
    url: str,
    directory: Path,
    *,
    content: Content,
    descriptor: Path,
    descriptor_sha256: str,
    reach: Reach,
    progress: Progress,
    patience: Patience | None = None,
) -> Path:
    """Bring the file of an image to `<directory>/image`, and answer its path.

    The descriptor must be there already. What an earlier call left is gone on with. Raises
    `OperationFailed` with the reason, `CancelledError`, or `OSError`.
    """
    patience = patience or Patience()
    done = directory / "image"
    params = VerifyParams(file=done, descriptor=descriptor, descriptor_sha256=descriptor_sha256)
    if done.exists():
        if verify(params, progress).ok:
            return done
        done.unlink()  # not what it was when it got its name
    with Partial(directory, content.sha256) as partial:
        _check_space(directory, content.size_bytes - partial.length)
        params = params.model_copy(update={"file": partial.path})
        for _ in range(_WHOLE_TRIES):
            try:
                _download(source_of(url, reach), partial, content, progress, patience)
            except SourceError as error:
                raise failed(error.slug, error.detail) from error
            progress.restart()
            found = verify(params, progress)
            if found.ok:
                partial.complete(done)
                return done
            # Perhaps its pieces do not belong together, or a bit was lost on the way.
            partial.go_on(0, None)
    raise failed(
        Slug.BAD_RECORD,
        f"What was fetched is not the image that its descriptor tells of, {_WHOLE_TRIES} times: "
        f"{found.why()}.",
    )


def fetch_descriptor(
    url: str,
    sha256: str,
    *,
    reach: Reach,
    progress: Progress,
    patience: Patience | None = None,
) -> bytes:
    """Fetch a descriptor, and answer it if it is the one of this SHA-256.

    Raises `OperationFailed` with the reason, or `CancelledError`.
    """
    retries = Retries(patience or Patience(give_up_seconds=30.0), progress)
    while True:
        try:
            data = _read(source_of(url, reach), progress)
            break
        except SourceTroubleError as error:
            try:
                retries.wait(error)
            except SourceError:
                raise failed(error.slug, error.detail) from error
        except SourceError as error:
            raise failed(error.slug, error.detail) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise failed(
            Slug.BAD_RECORD, f"The descriptor's SHA-256 is {found} and not {sha256}, as asked for."
        )
    return data


def failed(slug: Slug, detail: str) -> OperationFailed:
    """Make the end of an operation of a problem."""
    return OperationFailed(Problem.of(slug, detail))


def check(progress: Progress) -> None:
    """Raise `CancelledError` once somebody asked for it."""
    if progress.cancelled:
        raise CancelledError("cancelled")


def _download(
    source: Source, partial: Partial, content: Content, progress: Progress, patience: Patience
) -> None:
    """Append what is missing of a file. Raises `SourceError`, `CancelledError`, `OSError`."""
    progress.enter("downloading")
    progress.expect(content.size_bytes)
    _show(progress, partial)
    retries = Retries(patience, progress)
    retries.came_on(partial.length)
    while partial.length < content.size_bytes:
        pump = Pump(source, partial.length, partial.validator, progress)
        try:
            _take(pump, partial, content, progress)
            if partial.length < content.size_bytes:
                raise SourceTroubleError(
                    f"The source ends after {partial.length} of {content.size_bytes} bytes."
                )
        except SourceTroubleError as error:
            retries.came_on(partial.length)
            retries.wait(error)
        finally:
            pump.stop()
    partial.flush()


def _take(pump: Pump, partial: Partial, content: Content, progress: Progress) -> None:
    start = pump.start()
    if start.size is not None and start.size != content.size_bytes:
        raise SourceError(
            Slug.BAD_RECORD,
            f"The file there has {start.size} bytes, and its descriptor tells of "
            f"{content.size_bytes}: it is another one.",
        )
    partial.go_on(start.offset, start.validator)
    _show(progress, partial)
    for chunk in pump.chunks():
        if partial.length + len(chunk) > content.size_bytes:
            raise SourceError(
                Slug.BAD_RECORD,
                f"The file there has more than the {content.size_bytes} bytes that its descriptor "
                "tells of: it is another one.",
            )
        partial.append(chunk)
        progress.advance(len(chunk))


def _show(progress: Progress, partial: Partial) -> None:
    progress.restart()
    progress.advance(partial.length)


def _read(source: Source, progress: Progress) -> bytes:
    pump = Pump(source, 0, None, progress)
    try:
        pump.start()
        data = bytearray()
        for chunk in pump.chunks():
            data += chunk
            if len(data) > DESCRIPTOR_LIMIT:
                raise SourceError(
                    Slug.TOO_LARGE, f"A descriptor has at most {DESCRIPTOR_LIMIT} bytes."
                )
        return bytes(data)
    finally:
        pump.stop()


def _check_space(directory: Path, needed: int) -> None:
    found = os.statvfs(directory)
    available = found.f_bavail * found.f_frsize
    if needed + SPACE_MARGIN > available:
        raise failed(
            Slug.NO_SPACE,
            f"The image needs {needed} bytes more in {directory}, {SPACE_MARGIN} should be left, "
            f"and {available} are free; make room and start it again.",
        )
