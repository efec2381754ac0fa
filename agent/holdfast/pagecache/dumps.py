"""The stored dumps: record files in the state directory, named by their ids."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, Field, ValidationError

from holdfast import _engine
from holdfast.operations.ids import new_id
from holdfast.operations.model import RequestError, Slug
from holdfast.pagecache.models import DamagedDump, Dump, DumpList

LATEST = "latest"
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_SUFFIX = ".dump.zst"
_UPLOADED = ".uploaded" + _SUFFIX
_EXPANSION = 16
"""A record may be so many times as large as `max_record_bytes` when it is decompressed."""

_UNFINISHED = (".partial", ".upload", ".export")
"""Endings of temporary files: the engine's, and those of `temporary`."""

Temporary = tuple[Path, BinaryIO]

_Text = Annotated[str, Field(max_length=4096)]


class _Header(BaseModel):
    """What a record's header says; a record from elsewhere need not say all of it."""

    page_size: int
    roots: list[_Text] = Field(max_length=64)
    hotness: bool
    created_at: datetime | None = None
    host: _Text = ""
    boot_id: _Text = ""


class _Inspection(BaseModel):
    header: _Header
    files: int
    bytes: int


@dataclass(frozen=True)
class _Known:
    version: tuple[int, int, int]
    outcome: Dump | DamagedDump


class DumpStore:
    """Dumps on disk. Safe to use from many threads, and beside another process that adds dumps."""

    def __init__(self, directory: Path, *, kept: int, max_record_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_record_bytes * _EXPANSION
        self._kept = kept
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._in_use: Counter[str] = Counter()

    def prepare(self) -> None:
        """Make the directory, and remove what an earlier process left unfinished in it."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        for path in self.directory.iterdir():
            if path.suffix not in _UNFINISHED or not path.name.startswith("."):
                continue
            with suppress(BlockingIOError), path.open("rb") as file:
                # Whoever still writes it holds a lock on it.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)

    def destination(self, dump_id: str, *, uploaded: bool = False) -> Path:
        """Where the record of a new dump goes.

        Raises `RequestError` if the id is malformed or taken.
        """
        if not _ID.fullmatch(dump_id):
            raise RequestError(
                Slug.INVALID_REQUEST, f"{dump_id!r} is not a dump id; those are ULIDs.", "id"
            )
        if dump_id in self._paths():
            raise RequestError(Slug.CONFLICT, f"There is a dump {dump_id} already.", "id")
        return self.directory / (dump_id + (_UPLOADED if uploaded else _SUFFIX))

    def list(self) -> DumpList:
        """All dumps, newest first; those that cannot be used are named apart."""
        found = [self._describe(dump_id, path) for dump_id, path in sorted(self._paths().items())]
        found.reverse()
        return DumpList(
            dumps=_with_latest([each for each in found if isinstance(each, Dump)]),
            damaged=[each for each in found if isinstance(each, DamagedDump)],
        )

    def get(self, dump_id: str, *, before: str | None = None) -> Dump:
        """Describe a dump by its id or `latest`, which is sought among ids below `before`.

        Raises `RequestError` if there is none, or if it cannot be used.
        """
        paths = self._paths()
        # Newest first, and no further than the first that can be used.
        keys = sorted((key for key in paths if before is None or key < before), reverse=True)
        described = (self._describe(key, paths[key]) for key in keys)
        newest = next((found for found in described if isinstance(found, Dump)), None)
        if dump_id == LATEST:
            if newest is None:
                raise RequestError(Slug.NOT_FOUND, "There is no dump yet; make one first.", "dump")
            return newest.model_copy(update={"latest": True})
        if dump_id not in paths:
            raise RequestError(Slug.NOT_FOUND, f"There is no dump {dump_id}.", "dump")
        found = self._describe(dump_id, paths[dump_id])
        if isinstance(found, DamagedDump):
            raise RequestError(Slug.BAD_RECORD, found.detail, "dump")
        latest = newest is not None and newest.id == dump_id
        return found.model_copy(update={"latest": latest})

    @contextmanager
    def use(self, dump_id: str) -> Iterator[Path]:
        """Give the record file of a dump, which is not removed meanwhile.

        Raises `RequestError` if there is none.
        """
        with self._lock:
            path = self._paths().get(dump_id)
            if path is None:
                raise RequestError(Slug.NOT_FOUND, f"There is no dump {dump_id}.", "dump")
            self._in_use[dump_id] += 1
        try:
            yield path
        finally:
            with self._lock:
                self._in_use[dump_id] -= 1

    def delete(self, dump_id: str) -> None:
        """Remove a dump. Raises `RequestError` if there is none or it is being used."""
        with self._lock:
            path = self._paths().get(dump_id)
            if path is None:
                raise RequestError(Slug.NOT_FOUND, f"There is no dump {dump_id}.", "id")
            if self._in_use[dump_id]:
                raise RequestError(
                    Slug.CONFLICT, f"Dump {dump_id} is being read; try again later.", "id"
                )
            self._remove(dump_id, path)

    def retain(self, newest: str) -> None:
        """Remove the oldest dumps beyond the number that is kept, but none that is being used.

        Nor `newest`, which was just stored: one that was brought may have been made long ago.
        """
        with self._lock:
            paths = self._paths()
            surplus = max(len(paths) - self._kept, 0)
            for dump_id in sorted(paths.keys() - {newest})[:surplus]:
                if not self._in_use[dump_id]:
                    self._remove(dump_id, paths[dump_id])

    def _remove(self, dump_id: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._known.pop(dump_id, None)
        sync_directory(self.directory)

    def _paths(self) -> dict[str, Path]:
        try:
            names = os.listdir(self.directory)  # noqa: PTH208  # names are what is wanted
        except FileNotFoundError:
            return {}
        paths = {}
        for name in names:
            dump_id = name.removesuffix(_SUFFIX).removesuffix(".uploaded")
            if _ID.fullmatch(dump_id) and name in (dump_id + _SUFFIX, dump_id + _UPLOADED):
                paths[dump_id] = self.directory / name
        return paths

    def _describe(self, dump_id: str, path: Path) -> Dump | DamagedDump:
        """Read a whole record, unless this very file was read before."""
        try:
            stat = path.stat()
        except OSError as error:
            return DamagedDump(id=dump_id, detail=str(error))
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._known.get(dump_id)
        if known is None or known.version != version:
            known = _Known(version, self._inspect(dump_id, path, stat))
            self._known[dump_id] = known
        return known.outcome

    def _inspect(self, dump_id: str, path: Path, stat: os.stat_result) -> Dump | DamagedDump:
        try:
            inspection = inspect(path, self.max_bytes)
        except (_engine.EngineError, OSError) as error:
            return DamagedDump(id=dump_id, detail=str(error))
        header = inspection.header
        return Dump(
            id=dump_id,
            created_at=header.created_at or datetime.fromtimestamp(stat.st_mtime, UTC),
            host=header.host,
            boot_id=header.boot_id,
            roots=header.roots,
            page_size=header.page_size,
            files=inspection.files,
            bytes=inspection.bytes,
            record_bytes=stat.st_size,
            hotness=header.hotness,
            latest=False,
            uploaded=path.name.endswith(_UPLOADED),
        )


def inspect(path: Path, max_bytes: int) -> _Inspection:
    """Read and check a whole record.

    Raises `RecordError` if it cannot be trusted, `OSError` if it cannot be read.
    """
    request: dict[str, Any] = {"record": str(path), "max_bytes": max_bytes}
    text = _engine.inspect(json.dumps(request), _engine.Progress())
    try:
        return _Inspection.model_validate_json(text)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        message = f"{path}: its header is malformed ({field})"
        raise _engine.RecordError(message) from None


@contextmanager
def temporary(directory: Path, purpose: Literal["upload", "export"]) -> Iterator[Temporary]:
    """Make a file that is removed at the end, or at the latest by `DumpStore.prepare`.

    Raises `OSError` if it cannot be made.
    """
    path = directory / f".{new_id()}.{purpose}"
    with path.open("xb") as file:
        try:
            # Whoever clears up after a crash can tell by the lock that this one is in use.
            fcntl.flock(file, fcntl.LOCK_EX)
            yield path, file
        finally:
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _with_latest(dumps: list[Dump]) -> list[Dump]:
    return [dump.model_copy(update={"latest": nth == 0}) for nth, dump in enumerate(dumps)]
