"""Download of an image to this node: resumable, bounded, and named `image` once it is proven."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast import space
from holdfast._engine import Progress
from holdfast.operations.model import Slug
from holdfast.reimage.images.kinds import verify
from holdfast.reimage.images.models import Content, VerifyParams
from holdfast.reimage.images.partial import Partial
from holdfast.reimage.images.pump import Pump
from holdfast.reimage.images.retries import Patience, Retries, failed
from holdfast.reimage.images.sources import (
    Reach,
    Source,
    SourceError,
    SourceTroubleError,
    source_of,
)

_WHOLE_TRIES = 3
"""How often a file is fetched whole that turns out not to be what was described."""


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
    """Download the file of an image to `<directory>/image`, and return its path.

    The descriptor must be there already. Resumes what an earlier call left. Raises
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
        f"What was fetched is not the image of its descriptor, {_WHOLE_TRIES} times: "
        f"{found.why()}.",
    )


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
            f"The file there has {start.size} bytes, and its descriptor states "
            f"{content.size_bytes}: it is another one.",
        )
    partial.go_on(start.offset, start.validator)
    _show(progress, partial)
    for chunk in pump.chunks():
        if partial.length + len(chunk) > content.size_bytes:
            raise SourceError(
                Slug.BAD_RECORD,
                f"The file there has more than the {content.size_bytes} bytes that its descriptor "
                "states: it is another one.",
            )
        partial.append(chunk)
        progress.advance(len(chunk))


def _show(progress: Progress, partial: Partial) -> None:
    progress.restart()
    progress.advance(partial.length)


def _check_space(directory: Path, needed: int) -> None:
    found = os.statvfs(directory)
    available = found.f_bavail * found.f_frsize
    floor = space.floor_of(directory)
    if needed + floor > available:
        raise failed(
            Slug.NO_SPACE,
            f"The image needs {needed} bytes more in {directory}, {floor} have to stay free "
            f"(`data.free_space_floor`), and {available} are free; free space and start it again.",
        )
