"""A file that is being downloaded, in a state from which the next process can resume.

Beside the bytes, `image.partial`, lies `image.partial.json`: of which file they are, and how many
of them are known to be on the disk. After the end of a process all bytes written are good; after
that of the machine, only those that were flushed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ValidationError

from holdfast.records.models import Bytes
from holdfast.reimage.images.models import Sha256
from holdfast.storage import space
from holdfast.storage.atomic_files import flush_directory, replace_file

FLUSH_BYTES = 64 << 20
"""What a crash of the machine costs at most, besides what is in flight."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _State(BaseModel, defer_build=True):
    format: Literal["holdfast-download"] = "holdfast-download"
    version: Literal[1] = 1
    sha256: Sha256
    """Of the whole file; where it is fetched from may change."""
    validator: str | None
    flushed_bytes: Bytes
    boot_id: str


class Partial:
    """The file and its state; a context that closes the file and keeps both."""

    def __init__(self, directory: Path, sha256: str) -> None:
        """Open what an earlier process left of this file, or begin anew. Raises `OSError`."""
        self.path = directory / "image.partial"
        self._state_path = directory / "image.partial.json"
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        try:
            left = _load(self._state_path)
            length = os.fstat(self._file).st_size
            if left is None or left.sha256 != sha256:
                left, length = None, 0
            elif left.boot_id != boot_id:
                length = min(length, left.flushed_bytes)
            self._state = _State(
                sha256=sha256,
                validator=left.validator if left else None,
                flushed_bytes=0,
                boot_id=boot_id,
            )
            os.ftruncate(self._file, length)
            self.length = length
            self._flush()
            flush_directory(directory)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def validator(self) -> str | None:
        """What identified the file when its first byte arrived."""
        return self._state.validator

    def go_on(self, offset: int, validator: str | None) -> None:
        """Keep the bytes before `offset`; what follows comes from a file of this validator."""
        os.ftruncate(self._file, offset)
        self.length = offset
        if validator is not None or offset == 0:
            self._state = self._state.model_copy(update={"validator": validator})
        self._flush()

    def append(self, chunk: bytes) -> None:
        """Write bytes at the end. Raises `OSError`, also below the floor of free space."""
        space.check(self.path, len(chunk))
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._file, view, self.length)
            self.length += written
            view = view[written:]
        if self.length - self._state.flushed_bytes >= FLUSH_BYTES:
            self._flush()

    def complete(self, path: Path) -> None:
        """Give the file, which was checked, its name. Raises `OSError`."""
        os.fsync(self._file)
        self.path.rename(path)
        flush_directory(path.parent)
        self._state_path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Return once all bytes are on the disk. Raises `OSError`."""
        self._flush()

    def _flush(self) -> None:
        os.fsync(self._file)
        with suppress(OSError):  # what stays costs the datastore a little of its cache
            os.posix_fadvise(self._file, 0, self.length, os.POSIX_FADV_DONTNEED)
        self._state = self._state.model_copy(update={"flushed_bytes": self.length})
        replace_file(self._state_path, self._state.model_dump_json().encode() + b"\n", 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


def present_bytes(directory: Path) -> int:
    """Return how many bytes of an image are in its directory already. Raises `OSError`."""
    for name in ("image", "image.partial"):
        with suppress(FileNotFoundError):
            return (directory / name).stat().st_size
    return 0


def _load(path: Path) -> _State | None:
    """Read the state; one that cannot be read proves nothing about the bytes."""
    with suppress(FileNotFoundError, ValidationError):
        return _State.model_validate_json(path.read_bytes())
    return None
