"""What is applied, what it was before, and the journal of a change under way: JSON files.

`state.json` is what is in force, with all that is needed to go back. `pending.json` exists while a
change is under way: it is on the disk before the first write, and says how to go back or, once all
writes were verified, how to go on. Both are replaced whole, never rewritten in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from holdfast.durable import flush_directory, replace_file
from holdfast.operations.model import RequestError, Slug, Timestamp
from holdfast.tuning.knobs import Knob

VERSION = 1
M = TypeVar("M", "State", "Pending")
_MOST_ENTRIES = 32
_MOST_COMMITTED = 64


class StoredKnob(BaseModel):
    """Names a knob in a file."""

    subsystem: str
    target: str
    name: str
    identity: str = ""
    """Tells the target from another of the same name."""

    @property
    def knob(self) -> Knob:
        """The knob."""
        return Knob(self.subsystem, self.target, self.name)


class Valued(StoredKnob):
    """A knob with a value it had or should have."""

    value: str


class Change(StoredKnob):
    """A knob that an apply wrote."""

    before: str
    after: str


class InForce(Valued):
    """A setting that a profile put in force, and why."""

    source: str = ""
    profile: str
    defined_at: str


class Active(BaseModel):
    """The profile that is applied, as it was then."""

    profile: str
    policy: Literal["report", "enforce"]
    applied_at: Timestamp
    persist: bool
    digest: str
    settings: list[InForce]


class Entry(BaseModel):
    """One apply that can be rolled back."""

    profile: str
    applied_at: Timestamp
    previous: Active | None
    """What was in force before."""
    changes: list[Change]


class State(BaseModel):
    """What is in force, and how it came to be."""

    version: int = VERSION
    boot_id: str = ""
    """Of the boot in which the values of kernel knobs were observed."""
    active: Active | None = None
    history: list[Entry] = Field(default_factory=list)
    """Oldest first."""
    committed: list[str] = Field(default_factory=list)
    """The last operations that came to their end, oldest first."""

    def push(self, entry: Entry) -> None:
        """Add an apply. The oldest two become one, so that the way to the first stays."""
        self.history.append(entry)
        if len(self.history) > _MOST_ENTRIES:
            first, second, *rest = self.history
            merged = {change.knob: change for change in first.changes}
            for change in second.changes:
                before = merged[change.knob].before if change.knob in merged else change.before
                merged[change.knob] = change.model_copy(update={"before": before})
            combined = first.model_copy(update={"changes": list(merged.values())})
            self.history = [combined, *rest]

    def merge(self, changes: Sequence[Change]) -> None:
        """Add changes to the last apply; what a knob was before that stays."""
        if not self.history:
            return
        merged = {change.knob: change for change in self.history[-1].changes}
        for change in changes:
            known = merged.get(change.knob)
            if known is not None and known.identity == change.identity:
                merged[change.knob] = known.model_copy(update={"after": change.after})
            else:
                merged[change.knob] = change
        last = self.history[-1].model_copy(update={"changes": list(merged.values())})
        self.history[-1] = last

    def note_committed(self, operation: str) -> None:
        """Remember that an operation came to its end."""
        self.committed = [*self.committed, operation][-_MOST_COMMITTED:]


class Pending(BaseModel):
    """A change under way."""

    version: int = VERSION
    operation: str
    boot_id: str
    phase: Literal["writing", "verified"]
    before: list[Valued]
    """What every knob was that may be written, and what writing changes besides."""
    after: State | None = None
    """What is in force once it is done; known when all writes were verified."""


class Store:
    """The files, in a directory of their own."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / "tuning"
        self.mutex = threading.RLock()
        """Held by who holds the lock, for others in this process to wait for with patience."""
        self._state = self.directory / "state.json"
        self._pending = self.directory / "pending.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others, in this process or another, from changing settings meanwhile."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(self.directory / "lock", flags, 0o600)
        try:
            with self.mutex:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        finally:
            os.close(lock)

    def stamp(self) -> tuple[int, int]:
        """Answer something else after each change of the state."""
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
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, content.model_dump_json(indent=1).encode() + b"\n")


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
            f"{path} cannot be read ({error.errors()[0]['msg']}), so what settings were before is "
            "not known; restore the file, or move it away to begin anew with the present values.",
        ) from None
    if found.version > VERSION:
        raise RequestError(
            Slug.UNAVAILABLE,
            f"{path} was written by a newer holdfast; install that version again.",
        )
    return found
