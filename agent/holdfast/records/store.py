"""Stored record files: in a directory of the state directory, named by their ids."""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast import _engine
from holdfast._engine import Progress
from holdfast.engine.requests import EngineRequest, call_for_text
from holdfast.operations.ids import ambiguous, new_id, seconds_of
from holdfast.operations.model import RequestError, Slug
from holdfast.storage.atomic_files import flush_directory, make_directory

LATEST = "latest"
_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_BEGINNING = re.compile(r"[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{4,25}")
_EXPANSION = 16
"""A decompressed record may be this many times as large as `max_record_bytes`."""

_UNFINISHED = (".partial", ".upload", ".export")
"""Endings of temporary files: the engine's, those of uploads, and those of earlier versions."""

_AHEAD_SECONDS = 60
"""How far ahead of this node's clock the id of an upload may be."""

Temporary = tuple[Path, BinaryIO]


class Stored(BaseModel, defer_build=True):
    """What every stored record has."""

    id: str
    latest: bool
    uploaded: bool


class DamagedRecord(BaseModel, defer_build=True):
    """A stored record that cannot be used, and why."""

    id: str
    detail: str


R = TypeVar("R", bound=Stored)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class _Known(Generic[R]):
    version: tuple[int, int, int]
    outcome: R | DamagedRecord


class RecordStore(ABC, Generic[R]):
    """Records of one kind on disk.

    Safe to use from many threads, and beside another process that adds records.
    """

    noun: str
    """What one is called: `dump`."""

    def __init__(self, directory: Path, *, kept: int, max_record_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_record_bytes * _EXPANSION
        self._kept = kept
        self._suffix = f".{self.noun}.zst"
        self._uploaded = f".uploaded{self._suffix}"
        self._lock = threading.Lock()
        self._known: dict[str, _Known[R]] = {}
        self._in_use: Counter[str] = Counter()

    @abstractmethod
    def check(self, path: Path, max_bytes: int, progress: Progress) -> object:
        """Read and check a whole record, of which at most `max_bytes` are decompressed.

        Raises `RecordError` if it cannot be trusted, `OSError` if it cannot be read,
        `CancelledError`.
        """

    @abstractmethod
    def describe(self, record_id: str, path: Path, *, uploaded: bool, progress: Progress) -> R:
        """Describe a record, with `latest` false. Raises as `check` does."""

    def prepare(self) -> None:
        """Make the directory, and remove what an earlier process left unfinished in it.

        Ids made later in this process sort after those of the records that were made here, so that
        the newest is the latest also where the clock was ahead when the others were made.
        """
        prepare_directory(self.directory)
        for path in self.made_here()[:1]:
            new_id.follow(path.name.removesuffix(self._suffix))

    def destination(self, record_id: str, *, uploaded: bool = False, replace: bool = False) -> Path:
        """Where a new record goes.

        Raises `RequestError` if the id is malformed or, unless it may be replaced, taken.
        """
        if not _ID.fullmatch(record_id):
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"{record_id!r} is not a {self.noun} id; those are ULIDs.",
                "id",
            )
        if not replace and record_id in self._paths():
            raise RequestError(Slug.CONFLICT, f"There is a {self.noun} {record_id} already.", "id")
        return self.directory / (record_id + (self._uploaded if uploaded else self._suffix))

    def check_chosen(self, record_id: str) -> None:
        """Check an id that a client chose for an upload.

        Raises `RequestError` if it is malformed, taken, or of a time that has not come: it would
        stay the newest for as long.
        """
        self.destination(record_id, uploaded=True)
        ahead = seconds_of(record_id) - time.time()
        if ahead > _AHEAD_SECONDS:
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"The id {record_id} is of a time {ahead:.0f} s ahead of this node's clock, and at "
                f"most {_AHEAD_SECONDS} s are allowed; choose another id, or set the clocks.",
                "id",
            )

    def all(self, progress: Progress | None = None) -> tuple[list[R], list[DamagedRecord]]:
        """All records, newest first, and apart from them those that cannot be used.

        Raises `CancelledError`.
        """
        paths = sorted(self._paths().items(), reverse=True)
        found = [self._describe(key, path, progress) for key, path in paths]
        usable = [each for each in found if not isinstance(each, DamagedRecord)]
        damaged = [each for each in found if isinstance(each, DamagedRecord)]
        latest = next((each.id for each in usable if not each.uploaded), None)
        marked = [each.model_copy(update={"latest": each.id == latest}) for each in usable]
        return marked, damaged

    def made_here(self) -> list[Path]:
        """List the files of records that no client uploaded, newest first, without reading them."""
        paths = sorted(self._paths().items(), reverse=True)
        return [path for _, path in paths if not path.name.endswith(self._uploaded)]

    def get(
        self,
        record_id: str,
        *,
        field: str | None = None,
        before: str | None = None,
        progress: Progress | None = None,
    ) -> R:
        """Describe a record by its id or `latest`, which is sought among ids below `before`.

        `latest` is the newest that was made here: what was uploaded is reached by its id only.
        Raises `RequestError` about `field` if there is none, or if it cannot be used;
        `CancelledError`.
        """
        field = field or self.noun
        record_id = self.resolve(record_id, field=field, before=before)
        paths = self._paths()
        own = (key for key, path in paths.items() if not path.name.endswith(self._uploaded))
        # Newest first, and no further than the first that can be used.
        keys = sorted((key for key in own if before is None or key < before), reverse=True)
        described = (self._describe(key, paths[key], progress) for key in keys)
        newest = next((found for found in described if not isinstance(found, DamagedRecord)), None)
        if record_id == LATEST:
            if newest is None:
                raise RequestError(Slug.NOT_FOUND, self._none_made(bool(paths)), field)
            return newest.model_copy(update={"latest": True})
        if record_id not in paths:
            raise RequestError(Slug.NOT_FOUND, f"There is no {self.noun} {record_id}.", field)
        found = self._describe(record_id, paths[record_id], progress)
        if isinstance(found, DamagedRecord):
            raise RequestError(Slug.BAD_RECORD, f"{found.detail.removesuffix('.')}.", field)
        latest = newest is not None and newest.id == record_id
        return found.model_copy(update={"latest": latest})

    def resolve(self, name: str, *, field: str | None = None, before: str | None = None) -> str:
        """Return the id of the record that begins with `name`, of at least four characters.

        A name that no id begins with, and `latest`, are returned as they are. Ids that are not
        below `before` are left aside. Raises `RequestError` about `field`, with the candidates, if
        several ids begin so.
        """
        if not _BEGINNING.fullmatch(name):
            return name
        beginning = name.upper()
        found = [
            each
            for each in sorted(self._paths(), reverse=True)
            if each.startswith(beginning) and (before is None or each < before)
        ]
        if len(found) > 1:
            raise RequestError(
                Slug.CONFLICT, ambiguous(f"{self.noun}s", name, found), field or self.noun
            )
        return found[0] if found else name

    @contextmanager
    def use(self, record_id: str) -> Iterator[Path]:
        """Give the file of a record, which is not removed meanwhile.

        Raises `RequestError` if there is none.
        """
        with self._lock:
            path = self._paths().get(record_id)
            if path is None:
                raise RequestError(
                    Slug.NOT_FOUND, f"There is no {self.noun} {record_id}.", self.noun
                )
            self._in_use[record_id] += 1
        try:
            yield path
        finally:
            with self._lock:
                self._in_use[record_id] -= 1

    def delete(self, record_id: str) -> str:
        """Remove a record; return its id. Raises `RequestError` if there is none or it is used."""
        if record_id == LATEST:
            # Another one may be the latest by the time that this is done.
            latest = self.get(LATEST, field="id").id
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"A {self.noun} is deleted by its id, since another one may be the latest soon; "
                f"the latest now is {latest}.",
                "id",
            )
        record_id = self.resolve(record_id, field="id")
        with self._lock:
            path = self._paths().get(record_id)
            if path is None:
                raise RequestError(Slug.NOT_FOUND, f"There is no {self.noun} {record_id}.", "id")
            if self._in_use[record_id]:
                raise RequestError(
                    Slug.CONFLICT,
                    f"{self.noun.capitalize()} {record_id} is being read; try again later.",
                    "id",
                )
            self._remove(record_id, path)
        return record_id

    def retain(self, newest: str) -> None:
        """Remove the oldest records beyond the number that is kept, but none that is being used.

        Uploads and records made here are counted apart, so that neither drives the other out.
        `newest`, which was just stored, stays: an upload may have been made long ago.
        """
        with self._lock:
            paths = self._paths()
            uploads = {key for key, path in paths.items() if path.name.endswith(self._uploaded)}
            for group in (uploads, paths.keys() - uploads):
                surplus = max(len(group) - self._kept, 0)
                for record_id in sorted(group - {newest})[:surplus]:
                    if not self._in_use[record_id]:
                        self._remove(record_id, paths[record_id])

    def _none_made(self, uploads: bool) -> str:
        if uploads:
            return (
                f"No {self.noun} was made here yet, and one that was uploaded is named by its id; "
                "make one, or name one."
            )
        return f"There is no {self.noun} yet; make one first."

    def _remove(self, record_id: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._known.pop(record_id, None)
        flush_directory(self.directory)

    def _paths(self) -> dict[str, Path]:
        try:
            names = os.listdir(self.directory)  # noqa: PTH208  # names are what is wanted
        except FileNotFoundError:
            return {}
        paths = {}
        for name in names:
            record_id = name.removesuffix(self._suffix).removesuffix(".uploaded")
            endings = (record_id + self._suffix, record_id + self._uploaded)
            if _ID.fullmatch(record_id) and name in endings:
                paths[record_id] = self.directory / name
        return paths

    def _describe(
        self, record_id: str, path: Path, progress: Progress | None = None
    ) -> R | DamagedRecord:
        """Read a whole record, unless this very file was read before."""
        try:
            stat = path.stat()
        except OSError as error:
            return DamagedRecord(id=record_id, detail=str(error))
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._known.get(record_id)
        if known is None or known.version != version:
            outcome: R | DamagedRecord
            try:
                uploaded = path.name.endswith(self._uploaded)
                outcome = self.describe(
                    record_id, path, uploaded=uploaded, progress=progress or Progress()
                )
            except _engine.CancelledError:
                raise
            except (_engine.EngineError, OSError) as error:
                outcome = DamagedRecord(id=record_id, detail=str(error))
            known = _Known(version, outcome)
            self._known[record_id] = known
        return known.outcome


def inspection(request: EngineRequest, record: Path, model: type[M], progress: Progress) -> M:
    """Have the engine check a whole record, and check what its header claims.

    Raises `RecordError` if it cannot be trusted, `OSError` if it cannot be read, `CancelledError`.
    """
    text = call_for_text(request, progress)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        message = f"{record}: its header is malformed ({field})"
        raise _engine.RecordError(message) from None


def prepare_directory(directory: Path) -> None:
    """Make a directory for records, and remove what an earlier process left unfinished in it."""
    make_directory(directory)
    for path in directory.iterdir():
        if path.suffix not in _UNFINISHED or not path.name.startswith("."):
            continue
        # A process that still writes it holds a lock on it, and may finish at any moment.
        with suppress(BlockingIOError, FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


@contextmanager
def temporary(directory: Path) -> Iterator[Temporary]:
    """Make a file for an upload, removed at the end or at the latest by `prepare_directory`.

    Raises `OSError` if it cannot be made.
    """
    path = directory / f".{new_id()}.upload"
    with path.open("xb") as file:
        try:
            # The lock shows the clean-up after a crash that this one is in use.
            fcntl.flock(file, fcntl.LOCK_EX)
            yield path, file
        finally:
            path.unlink(missing_ok=True)
