"""The stored dumps, and those that clients upload."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from holdfast._engine import Progress
from holdfast.engine.requests import call
from holdfast.pagecache.engine_requests import ImportHappycache, InspectDump
from holdfast.pagecache.models import Dump
from holdfast.records.store import RecordStore, inspection
from holdfast.records.uploads import Upload

_GZIP = b"\x1f\x8b"
_Text = Annotated[str, Field(max_length=4096)]


class _Header(BaseModel, defer_build=True):
    """The header of a record; one from elsewhere need not have all fields."""

    page_size: int
    roots: list[_Text] = Field(max_length=64)
    hotness: bool = False
    path: _Text | None = None
    created_at: datetime | None = None
    host: _Text = ""
    boot_id: _Text = ""


class _Inspection(BaseModel, defer_build=True):
    header: _Header
    files: int
    bytes: int


_place = attrgetter("roots", "path", "host", "uploaded", "page_size")
"""What dumps of the same files in the same place have in common."""


class DumpStore(RecordStore[Dump]):
    """Dumps on disk."""

    noun = "dump"

    def check(self, path: Path, max_bytes: int, progress: Progress) -> _Inspection:
        """Read and check a whole dump."""
        request = InspectDump(record=path, max_bytes=max_bytes)
        return inspection(request, path, _Inspection, progress)

    def before(self, dump: Dump, count: int) -> list[str]:
        """List dumps of the same files before a dump, the newest first, up to `count`.

        Damaged ones are among them: what they are of is not known, and their reader says why
        they cannot be used.
        """
        dumps, damaged = self.all()
        same = {each.id for each in dumps if _place(each) == _place(dump)}
        known = sorted(same | {each.id for each in damaged}, reverse=True)
        found: list[str] = []
        for record_id in known:
            if record_id < dump.id and count:
                found.append(record_id)
                count -= record_id in same
        return found

    def describe(self, record_id: str, path: Path, *, uploaded: bool, progress: Progress) -> Dump:
        """Describe a dump."""
        inspection = self.check(path, self.max_bytes, progress)
        stat = path.stat()
        header = inspection.header
        return Dump(
            id=record_id,
            created_at=header.created_at or datetime.fromtimestamp(stat.st_mtime, UTC),
            host=header.host,
            boot_id=header.boot_id,
            roots=header.roots,
            path=header.path,
            page_size=header.page_size,
            files=inspection.files,
            bytes=inspection.bytes,
            record_bytes=stat.st_size,
            hotness=header.hotness,
            latest=False,
            uploaded=uploaded,
        )


class DumpUpload(Upload[Dump]):
    """A dump on its way in, in holdfast's format or in happycache's."""

    def __init__(self, store: DumpStore, *, max_bytes: int, root: Path) -> None:
        """Begin to receive at most `max_bytes`; `root` is what happycache's paths are below.

        Raises `OSError` if there is no place for it.
        """
        super().__init__(store, max_bytes=max_bytes)
        self._root = root

    def _place(
        self,
        received: Path,
        record_id: str,
        destination: Path,
        limit: int,
        progress: Progress,
    ) -> None:
        with received.open("rb") as file:
            foreign = file.read(len(_GZIP)) == _GZIP
        if not foreign:
            super()._place(received, record_id, destination, limit, progress)
            return
        request = ImportHappycache(
            source=received,
            destination=destination,
            root=self._root,
            header={"id": record_id},
            max_bytes=limit,
        )
        call(request, progress)
