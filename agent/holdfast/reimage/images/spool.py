"""A machine image of EC2 as a sparse file, for as long as it takes to describe it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast._engine import Progress
from holdfast.reimage.images.retries import Patience, Retries, check, failed
from holdfast.reimage.images.sources import Reach, SourceError, SourceTroubleError
from holdfast.reimage.images.sources.ami import AmiSource


@contextmanager
def spooled(url: str, directory: Path, progress: Progress) -> Iterator[Path]:
    """Give the raw disk of `ami://…` as a file in a directory of its own, which then goes.

    Raises `OperationFailed`, `CancelledError`, `OSError`.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix=".holdfast-image.") as scratch:
        path = Path(scratch, f"{url.removeprefix('ami://')}.raw")
        progress.enter("downloading")
        try:
            source = AmiSource(url, Reach())
            with path.open("wb") as file:
                _bring(source, file.fileno(), progress)
        except SourceError as error:
            raise failed(error.slug, error.detail) from error
        yield path


def _bring(source: AmiSource, file: int, progress: Progress) -> None:
    """Write what is not zeros; the rest stays holes. Resumes after an error where it was."""
    retries = Retries(Patience(), progress)
    length, validator, size = 0, None, -1
    while length != size:
        try:
            opened = source.open(length, validator)
            length, validator, size = opened.offset, opened.validator, opened.size or 0
            if length == 0:
                os.ftruncate(file, 0)
                os.ftruncate(file, size)
                progress.restart()
                progress.expect(size)
            for offset, content in opened.pieces():
                check(progress)
                if isinstance(content, bytes):
                    _write(file, content, offset)
                count = len(content) if isinstance(content, bytes) else content
                length = offset + count
                progress.advance(count)
        except SourceTroubleError as error:
            retries.came_on(length)
            retries.wait(error)


def _write(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
