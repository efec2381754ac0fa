"""Uploads of records: received under a temporary name, checked, and only then stored."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, TypeVar

from holdfast import _engine
from holdfast._engine import Progress
from holdfast.operations.ids import new_id
from holdfast.operations.model import RequestError, Slug
from holdfast.records.store import RecordStore, Stored, temporary
from holdfast.storage import space
from holdfast.storage.atomic_files import flush_directory, make_directory

R = TypeVar("R", bound=Stored)

_RATIO, _FREE_BYTES = 1100, 64 << 20
"""How many times an upload may expand, beyond what costs nothing to read.

gzip cannot do more, and no honest record does; zstd can do ten times more, so that a small upload
would keep a processor busy for minutes.
"""


class Upload(Generic[R]):
    """A record file on its way in. End it with `finish` or `abort`."""

    def __init__(self, store: RecordStore[R], *, max_bytes: int) -> None:
        """Begin to receive at most `max_bytes`.

        Raises `OSError` if there is no space for it.
        """
        self._store = store
        self._left = self._max_bytes = max_bytes
        make_directory(store.directory)
        self._end = ExitStack()
        self._path, self._file = self._end.enter_context(temporary(store.directory))

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises `RequestError` if there are too many, `OSError` if the volume has too little space.
        """
        self._left -= len(data)
        if self._left < 0:
            raise RequestError(
                Slug.TOO_LARGE,
                f"The record is larger than the {self._max_bytes} bytes that are allowed; raise "
                "`max_record_bytes` to take it.",
            )
        space.check(self._path, len(data))
        self._file.write(data)

    def finish(self, record_id: str | None, progress: Progress | None = None) -> R:
        """Check what was received and store it, under a new id by default.

        Raises `RequestError` if the id cannot be had, `RecordError` if the file cannot be trusted,
        `OSError` if it cannot be stored, `CancelledError`. Nothing of it is kept then.
        """
        progress = progress or Progress()
        try:
            if record_id is not None:
                self._store.check_chosen(record_id)
            chosen = record_id or new_id()
            destination = self._store.destination(chosen, uploaded=True)
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._path.stat().st_size
            limit = min(self._store.max_bytes, _FREE_BYTES + size * _RATIO)
            self._place(self._path, chosen, destination, limit, progress)
        except _engine.RecordError as error:
            # The temporary name means nothing to the client.
            reason = str(error).removeprefix(f"{self._path}: ")
            raise _engine.RecordError(f"The uploaded file is refused: {reason}") from None
        finally:
            self.abort()
        self._store.retain(chosen)
        return self._store.get(chosen, progress=progress)

    def abort(self) -> None:
        """Remove what was received. Idempotent."""
        self._end.close()

    def _place(
        self,
        received: Path,
        record_id: str,
        destination: Path,
        limit: int,
        progress: Progress,
    ) -> None:
        """Put what was received where it goes, if it is a record that can be trusted."""
        del record_id
        self._store.check(received, limit, progress)
        # Unlike a rename, a link never replaces what another process put there meanwhile.
        os.link(received, destination)
        flush_directory(destination.parent)
