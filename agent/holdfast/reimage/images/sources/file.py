"""Images in a file of this node, within the configured roots."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from holdfast.operations.model import RequestError, Slug
from holdfast.reimage.images.sources.base import Reach, SourceError, SourceTroubleError
from holdfast.storage.roots import RootPath

_CHUNK = 1 << 20


class FileSource:
    """A file named by `file:///path`."""

    def __init__(self, url: str, reach: Reach) -> None:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise SourceError(
                Slug.INVALID_REQUEST, "A file of this node is named as file:///path, and no more."
            )
        if reach.places is None:
            raise SourceError(Slug.OUTSIDE_ROOTS, "No files of this node can be used here.")
        self._path = unquote(parts.path)
        self._places = reach.places

    def open(self, offset: int, validator: str | None) -> OpenedFile:
        """Open the file. Raises `SourceError`."""
        try:
            descriptor = _open_beneath(self._places.find(self._path, "url"))
        except RequestError as error:
            raise SourceError(error.slug, error.detail) from error
        except OSError as error:
            raise SourceError(
                Slug.IO_ERROR, f"{self._path} cannot be opened: {error.strerror}."
            ) from error
        return OpenedFile(self._path, descriptor, offset, validator)

    def abort(self) -> None:
        """Nothing here waits without a limit."""


class OpenedFile:
    """An open file; see `Opened`."""

    def __init__(self, path: str, descriptor: int, offset: int, validator: str | None) -> None:
        self._path = path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise SourceError(Slug.INVALID_REQUEST, f"{path} is not a regular file.")
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self.size: int | None = found.st_size
        self.validator: str | None = f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}"
        same = validator == self.validator and offset <= found.st_size
        self.offset = offset if same else 0

    def chunks(self) -> Iterator[bytes]:
        """Read the file from the offset to its end. Raises `SourceTroubleError`."""
        try:
            self._file.seek(self.offset)
            while chunk := self._file.read(_CHUNK):
                yield chunk
        except OSError as error:
            raise SourceTroubleError(f"{self._path} cannot be read: {error.strerror}.") from error

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def _open_beneath(place: RootPath) -> int:
    """Open a file in a root through no symbolic link, also when a process swaps names meanwhile."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    here = os.open(place.root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        parts = PurePosixPath(place.path).parts
        for number, part in enumerate(parts):
            more = 0 if number == len(parts) - 1 else os.O_DIRECTORY
            there = os.open(part, flags | more, dir_fd=here)
            os.close(here)
            here = there
    except OSError:
        os.close(here)
        raise
    return here
