"""Requests and results of the memory capability.

The same models describe the HTTP bodies, the stored operations and, as JSON, what the engine
returns. Sizes are bytes and rates bytes per second; times are UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from holdfast.operations.model import Timestamp
from holdfast.operations.results import OperationResult, Outcome
from holdfast.records.models import AbsolutePath, Bytes, Count, Located, PathText, Request

Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
Patterns = Annotated[list[Pattern], Field(max_length=1000)]
BytesPerSecond = Annotated[int, Field(ge=1, le=2**63 - 1)]
NotRestored = Literal["no-save", "used", "too-old", "files-present"]

_NO_STATE = frozenset({"excluded", "vanished", "socket", "fifo"})
"""What is left out and is no loss: sockets and pipes are made again by their service."""


class SaveRequest(Request):
    """Write the files of a tmpfs root to the data volume."""

    root: AbsolutePath | None = Field(
        default=None,
        description="A root of `memory.roots`; may be left out where there is only one.",
    )
    include: Patterns = Field(
        default_factory=list,
        description="Save only what matches one of these; patterns as for manifests.",
    )
    exclude: Patterns = Field(
        default_factory=list,
        description="Leave out what matches one of these; a directory with all that is in it.",
    )
    requires: Annotated[list[PathText], Field(max_length=100)] = Field(
        default_factory=list,
        description="Files, relative to the root, without which nothing is saved: those that the "
        "service writes at a clean stop, such as memcached's `memory_file.meta`.",
    )
    even_if_open: bool = Field(
        default=False,
        description="Save while processes hold files open for writing; what is saved may then not "
        "be consistent.",
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Write at most this much each second."
    )


class RestoreRequest(Request):
    """Put a save back into its tmpfs root."""

    save: str = Field(default="latest", max_length=64, description="A save's id, or `latest`.")
    root: AbsolutePath | None = Field(
        default=None,
        description="A root of `memory.roots`; may be left out where there is only one. A save "
        "that is named may be of another one.",
    )
    existing: Literal["refuse", "replace"] = Field(
        default="refuse", description="What to do where files of the save are there already."
    )
    before_start: bool = Field(
        default=False,
        description="A service starts after this, whatever it comes to. Nothing to restore, and "
        "files that are there, are no failure; and the latest save counts as used from then on, "
        "since what the service has afterwards is newer.",
    )
    again: bool = Field(
        default=False, description="Also restore a save that was used before: it may be outdated."
    )
    max_age_seconds: Annotated[int, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="Do not restore a save that is older than this."
    )
    even_if_open: bool = Field(
        default=False,
        description="Replace files also while processes hold files open for writing. They continue "
        "with the files that were replaced.",
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None, description="Read at most this much each second."
    )


class SaveResult(OperationResult):
    """What was saved.

    Its outcome is `partial` if symbolic links, devices or other file systems were left out, or
    files changed while they were read.
    """

    save: str = Field(description="The id of the save, which is that of the operation.")
    root: str = Field(description="The root that was saved.")
    files: Count
    directories: Count
    bytes: Bytes = Field(description="Of the files, with holes.")
    data_bytes: Bytes = Field(description="Of these, what is no hole.")
    stored_bytes: Bytes = Field(description="On the volume.")
    direct: bool = Field(description="Whether the page cache was not used.")
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="Names that are no files or directories, by what they are; and what patterns "
        "or other mounts left out, by reason.",
    )
    left_out_names: list[Located] = Field(
        default_factory=list, description="Some of them, at most 20."
    )
    changed: list[Located] = Field(
        default_factory=list,
        description="Files that changed while they were read, where that was overruled; at most "
        "20.",
    )
    open_for_writing: list[str] = Field(
        default_factory=list,
        description="Who held files open for writing, where that was overruled.",
    )
    uninspected_processes: Count = Field(
        default=0,
        description="Processes whose open files this daemon may not see; they may hold some too.",
    )

    @property
    def outcome(self) -> Outcome:
        """`partial` if the save is not all of the root as it was at one moment."""
        lost = self.left_out.keys() - _NO_STATE
        return Outcome.PARTIAL if lost or self.changed else Outcome.OK


class Unmapped(BaseModel, defer_build=True):
    """Owners whose names nobody has here; they keep their numbers."""

    count: Count = 0
    names: list[str] = Field(default_factory=list, description="Some of them.")


class RestoreResult(OperationResult):
    """What was restored.

    Its outcome is `partial` if owners have no name here, or extended attributes could not be set.
    """

    save: str | None = Field(description="The save; null if there was none.")
    root: str = Field(description="The root that it was restored into.")
    restored: bool = Field(description="Whether the files are in place, all of them.")
    reason: NotRestored | None = Field(
        default=None,
        description="Why not, with `before_start`: there is no save, or it was used before, or is "
        "too old, or files are there already.",
    )
    files: Count = 0
    directories: Count = 0
    bytes: Bytes = Field(default=0, description="Of the files, with holes.")
    data_bytes: Bytes = Field(default=0, description="Of these, what is no hole.")
    reader: str | None = Field(default=None, description="How the volume was read.")
    unmapped_owners: Unmapped = Field(default_factory=Unmapped)
    unset_attributes: Count = Field(
        default=0, description="Files and directories of which extended attributes are missing."
    )
    open_for_writing: list[str] = Field(
        default_factory=list,
        description="Who held files open for writing, where that was overruled.",
    )
    uninspected_processes: Count = Field(
        default=0,
        description="Processes whose open files this daemon may not see; they may hold some too.",
    )

    @property
    def outcome(self) -> Outcome:
        """`partial` if files are in place, and something beside their content is not."""
        lost = self.unmapped_owners.count or self.unset_attributes
        return Outcome.PARTIAL if lost else Outcome.OK


class MemorySave(BaseModel, defer_build=True):
    """A save on the data volume."""

    id: str
    root: str
    created_at: Timestamp
    host: str
    boot_id: str
    files: Count
    directories: Count
    bytes: Bytes
    data_bytes: Bytes
    stored_bytes: Bytes
    used_at: Timestamp | None = Field(
        default=None, description="When it was restored, or a service started without it."
    )
    used_by: str | None = Field(default=None, description="The operation that did so.")


class MemoryRoot(BaseModel, defer_build=True):
    """A root of `memory.roots` as it is now."""

    root: str
    problem: str | None = Field(
        default=None, description="Why nothing can be saved or restored there; null if it can."
    )
    size_bytes: Bytes = Field(default=0, description="Of the tmpfs.")
    used_bytes: Bytes = 0


MemoryFigures = Sequence[tuple[str, int | None, MemorySave | None]]
"""Of each root: its path, the bytes in use in its tmpfs, and its latest save."""


class MemoryState(BaseModel, defer_build=True):
    """The configured roots, and the saves."""

    roots: list[MemoryRoot]
    saves: list[MemorySave] = Field(description="Newest first.")
    damaged: list[str] = Field(
        description="Directories among the saves that cannot be read as one."
    )
