"""What is applied, what it was before, and the journal of a change under way: JSON files.

`state.json` is what is in force, with all that is needed to go back. `pending.json` exists while a
change is under way: it is on the disk before the first write, and records how to revert or, once
all writes were verified, how to complete it. Both are replaced whole, never rewritten in place.

Their content is written to the kernel and to /etc, so they are where only root and the user of the
writing process can put anything: on the system's own disk, never with the data. Others may read
them: they hold names and values of settings.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.node.paths.guarded import why_unguarded
from holdfast.operations.model import RequestError, Slug
from holdfast.storage.atomic_files import flush_directory, make_directory, replace_file
from holdfast.text.wording import first
from holdfast.tuning.records import (
    VERSION,
    Active,
    Change,
    Entry,
    InForce,
    Left,
    Pending,
    State,
    StoredKnob,
    Valued,
)

__all__ = [
    "Active",
    "Change",
    "Entry",
    "InForce",
    "Left",
    "Pending",
    "State",
    "Store",
    "StoredKnob",
    "Valued",
]

M = TypeVar("M", "State", "Pending")


class Store:
    """The files, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mutex = threading.RLock()
        """Held by who holds the lock, for others in this process to wait for with patience."""
        self._state = self.directory / "state.json"
        self._pending = self.directory / "pending.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others, in this process or another, from changing settings meanwhile.

        Raises `RequestError` if others than root and this user could have put the files there.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            make_directory(self.directory, 0o755)
            reason = why_unguarded(self.directory, {0, os.geteuid()})
            if reason is None and self.directory.stat().st_mode & 0o022:
                reason = "others than its owner can write there."
            if reason is not None:
                raise self._unusable(Slug.UNAVAILABLE, reason.rstrip("."))
            lock = os.open(self.directory / "lock", flags, 0o600)
        except (PermissionError, NotADirectoryError) as error:
            raise self._unusable(Slug.NOT_PERMITTED, error.strerror or str(error)) from error
        try:
            with self.mutex:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        finally:
            os.close(lock)

    def stamp(self) -> tuple[int, int]:
        """Return a value that differs after each change of the state."""
        try:
            status = self._state.stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)

    def state(self) -> State:
        """Read what is in force. Raises `RequestError` if the file cannot be trusted."""
        pending = self.pending()
        if pending is not None and pending.after is not None:
            return pending.after  # verified, and on its way to be the state
        return _read(self._state, State) or State()

    def save(self, state: State) -> None:
        """Replace what is in force; on the disk when this returns."""
        state.revision += 1
        self._replace(self._state, state)

    def pending(self) -> Pending | None:
        """Read the change under way, if there is one."""
        return _read(self._pending, Pending)

    def begin(self, pending: Pending) -> None:
        """Note a change, or its next phase; on the disk when this returns."""
        self._replace(self._pending, pending)

    def end(self) -> None:
        """Forget the change: it is over."""
        with contextlib.suppress(FileNotFoundError):
            self._pending.unlink()
        flush_directory(self.directory)

    def _replace(self, path: Path, content: BaseModel) -> None:
        replace_file(path, content.model_dump_json(indent=1).encode() + b"\n", 0o644)

    def _unusable(self, slug: Slug, reason: str) -> RequestError:
        return RequestError(
            slug,
            f"What settings were before cannot be recorded in {self.directory}: {reason}; run "
            "holdfast as root, or set `tuning.journal_dir` to a directory that only root and "
            "holdfast's user can write.",
        )


def _read(path: Path, model: type[M]) -> M | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = model.model_validate_json(content)
    except ValidationError as error:
        raise RequestError(
            Slug.UNAVAILABLE,
            f"{path} cannot be read ({first(error)}), so what settings were before is "
            "not known; restore the file, or move it away to begin anew with the present values.",
        ) from None
    if found.version > VERSION:
        raise RequestError(
            Slug.UNAVAILABLE,
            f"{path} was written by a newer holdfast; install that version again.",
        )
    return found
