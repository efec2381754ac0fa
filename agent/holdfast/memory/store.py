"""Saves on the data volume: a directory each, which is there whole or not at all.

What is in them was perhaps written by another system: the engine believes nothing of it, and what
is read here is for people, and to find the save of a root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.memory.models import MemorySave, RestoreResult, SaveResult
from holdfast.operations.ids import LENGTH
from holdfast.operations.model import RequestError, Slug, Timestamp, now
from holdfast.storage.atomic_files import flush_directory, make_directory, replace_file

_NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_ABOUT, _USED = "save.json", "used.json"
_MAX_BYTES = 1 << 20

M = TypeVar("M", bound=BaseModel)


class SaveAbout(SaveResult):
    """What is kept beside a save: the result of making it, and where and when that was."""

    created_at: Timestamp
    host: str
    boot_id: str


class Used(BaseModel, defer_build=True):
    """That a save was used."""

    at: Timestamp
    operation: str
    result: RestoreResult | None = None
    """Of the restore, before its files are renamed into place."""


class SaveStore:
    """Saves below a directory. Safe to use from many threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self.known: list[MemorySave] = []
        """The saves as they were when they last changed or were read."""

    def prepare(self) -> None:
        """Remove what an earlier process did not complete. Raises `OSError`."""
        for left in self.directory.glob(".*.partial"):
            _remove(left)
        self.all()

    @contextlib.contextmanager
    def new(self, save_id: str) -> Iterator[Path]:
        """Yield an empty directory, which is removed unless it was kept with `keep`.

        Raises `OSError`.
        """
        make_directory(self.directory)
        partial = self._partial(save_id)
        _remove(partial)
        partial.mkdir(mode=0o700)
        try:
            yield partial
        finally:
            _remove(partial)

    def keep(self, about: SaveAbout) -> None:
        """Give a save its name, durably. Raises `OSError`."""
        partial = self._partial(about.save)
        replace_file(partial / _ABOUT, about.model_dump_json().encode() + b"\n")
        partial.rename(self.path(about.save))
        flush_directory(self.directory)
        self.all()

    def path(self, save_id: str) -> Path:
        """Return the directory of a save."""
        if not _NAME.fullmatch(save_id):  # no other name gets into a path
            shown = save_id if len(save_id) <= LENGTH else f"{save_id[:LENGTH]}…"
            raise RequestError(Slug.NOT_FOUND, f"There is no save {shown}.", "save")
        return self.directory / save_id

    def about(self, save_id: str) -> SaveAbout | None:
        """Return what is kept beside a save; None if there is no such save, or it is damaged."""
        return _read(self.path(save_id) / _ABOUT, SaveAbout)

    def all(self) -> tuple[list[MemorySave], list[str]]:
        """Return all saves, newest first, and the names of those that are damaged."""
        try:
            names = sorted((path.name for path in self.directory.iterdir()), reverse=True)
        except FileNotFoundError:
            self.known = []
            return [], []
        saves, damaged = [], []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            about = self.about(name)
            if about is None or about.save != name:
                damaged.append(name)
                continue
            used = self.used(name)
            members = {key: getattr(about, key) for key in MemorySave.model_fields.keys() & _SHOWN}
            saves.append(
                MemorySave(
                    id=name,
                    used_at=None if used is None else used.at,
                    used_by=None if used is None else used.operation,
                    **members,
                )
            )
        self.known = saves
        return saves, damaged

    def latest(self, root: str) -> MemorySave | None:
        """Return the newest save of a root."""
        return next((save for save in self.all()[0] if save.root == root), None)

    def get(self, save_id: str) -> MemorySave:
        """Return a save by its id. Raises `RequestError` if there is none."""
        self.path(save_id)
        found = next((save for save in self.all()[0] if save.id == save_id), None)
        if found is None:
            raise RequestError(Slug.NOT_FOUND, f"There is no save {save_id}.", "save")
        return found

    def used(self, save_id: str) -> Used | None:
        """Return how a save was used; None if it was not.

        A damaged mark counts: better a cold start than old content.
        """
        file = self.path(save_id) / _USED
        used = _read(file, Used)
        if used is None and os.path.lexists(file):
            return Used(at=now(), operation="unknown")
        return used

    def mark(self, save_id: str, operation: str, result: RestoreResult | None = None) -> None:
        """Note durably that a save was used. Raises `OSError`."""
        used = Used(at=now(), operation=operation, result=result)
        replace_file(self.path(save_id) / _USED, used.model_dump_json().encode() + b"\n")
        self.all()

    def unmark(self, save_id: str, *, before: MemorySave) -> None:
        """Forget that a save was used, unless it was before. Raises `OSError`."""
        if before.used_at is None:
            (self.path(save_id) / _USED).unlink(missing_ok=True)
            flush_directory(self.path(save_id))
            self.all()

    def delete(self, save_id: str) -> str:
        """Remove a save, also a damaged one; return its id. Raises `RequestError`, `OSError`."""
        path = self.path(save_id)
        with self._lock:
            if not os.path.lexists(path):
                raise RequestError(Slug.NOT_FOUND, f"There is no save {save_id}.", "save")
            # First under a name that no save has: a crash leaves none that is half there.
            partial = self._partial(save_id)
            _remove(partial)
            path.rename(partial)
            flush_directory(self.directory)
            _remove(partial)
        self.all()
        return save_id

    def _partial(self, save_id: str) -> Path:
        return self.directory / f".{save_id}.partial"


_SHOWN = frozenset(SaveAbout.model_fields)


def _remove(path: Path) -> None:
    """Remove a file, a link or a directory, if it is there. Raises `OSError`."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return


def _read(file: Path, model: type[M]) -> M | None:
    """Read a file of this store; None if it is not there, or is not what it should be."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(file, flags), "rb") as stream:
            return model.model_validate_json(stream.read(_MAX_BYTES))
    except (OSError, ValidationError):
        return None
