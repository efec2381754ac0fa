"""Requests and results of the manifest capability.

The same models describe the HTTP bodies, the stored operations and, as JSON, the calls into the
engine. Sizes, offsets and ranges are bytes; times are UTC unless a name ends in `_ns`, which counts
nanoseconds since the epoch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from holdfast.engine.pressure import PressureLimit
from holdfast.operations.results import OperationResult, Outcome
from holdfast.records.models import (
    AbsolutePath,
    Bytes,
    Count,
    LeftOutByReason,
    Located,
    Request,
)
from holdfast.records.store import DamagedRecord, Stored

Algorithm = Literal["xxh64", "xxh3_128", "blake3"]
Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
Patterns = Annotated[list[Pattern], Field(max_length=1000)]
ManifestId = Annotated[str, Field(min_length=1, max_length=64)]
Range = tuple[Bytes, Bytes]
Type = Literal["file", "directory", "symlink", "fifo", "socket", "block", "char"]


class ReadLimits(Request):
    """How considerately files are read."""

    bytes_per_second: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Rate limit on what is read from the device."
    )
    pressure: PressureLimit | None = Field(
        default=None, description="Give way to others above a limit; never when left out."
    )


class BuildRequest(ReadLimits):
    """Record every file below a directory with its digest."""

    root: AbsolutePath | None = Field(
        default=None, description="A configured root; may be left out where there is just one."
    )
    path: AbsolutePath | None = Field(
        default=None, description="Only this directory, which must be in a root."
    )
    include: Patterns = Field(
        default_factory=list,
        description="List only what matches one of these. Shell patterns: without a slash for "
        "names at any depth, with one for paths relative to the directory; `**` crosses slashes.",
    )
    exclude: Patterns = Field(
        default_factory=list,
        description="Leave out what matches one of these; a directory with all that is in it.",
    )
    algorithm: Algorithm = Field(
        default="xxh64",
        description="`xxh64` and `xxh3_128` find accidents; `blake3` is cryptographic and finds "
        "forgeries as well.",
    )
    full: bool = Field(
        default=False,
        description="Read everything, also files that have not changed since an earlier manifest.",
    )


class VerifyRequest(ReadLimits):
    """Read the files that a manifest lists and compare."""

    path: AbsolutePath | None = Field(
        default=None,
        description="The directory to verify, in a root; where the manifest was made if left out.",
    )
    sample_percent: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None, description="Read only this share of all chunks, chosen at random."
    )
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = Field(
        default=None, description="Makes the choice the same again; new each time if left out."
    )


class VerifyParams(VerifyRequest):
    """What a verification was asked for."""

    manifest: ManifestId = Field(default="latest", description="A manifest's id, or `latest`.")


class CompareRequest(Request):
    """Compare two manifests without reading what they are of."""

    left: ManifestId = Field(description="A manifest's id, or `latest`.")
    right: ManifestId = Field(description="A manifest's id, or `latest`.")
    identical: bool = Field(default=False, description="Report what is identical as well.")


class Device(BaseModel, defer_build=True):
    """What files were read from."""

    device: str = Field(description="Its number, `major:minor`.")
    name: str | None = None
    width: Count = Field(description="Disks that work at the same time.")


class Reading(BaseModel, defer_build=True):
    """How files were read."""

    read_bytes: Bytes = Field(description="Read from files; a little more than they have.")
    hole_bytes: Bytes = Field(description="In holes, which are known to be zeros without reading.")
    reader: str = Field(description="The way most bytes took, for example `io_uring direct`.")
    reader_bytes: dict[str, Bytes] = Field(description="Bytes by the way they took.")
    reader_note: str | None = Field(description="Why it was not the best way, if it was not.")
    queue_depth: Count = Field(description="Reads in flight at most.")
    devices: list[Device] = Field(description="What was read from.")
    rate_wait_seconds: float = Field(description="Spent waiting for the rate limit.")
    pressure_wait_seconds: float = Field(description="Spent giving way to others.")


class Totals(BaseModel, defer_build=True):
    """What a manifest has, in numbers."""

    entries: Count = Field(description="Lines of any type.")
    files: Count
    directories: Count
    symlinks: Count
    specials: Count = Field(description="FIFOs, sockets and devices.")
    bytes: Bytes = Field(description="In files, those with several names counted once.")
    hardlinks: Count = Field(description="Names of files beyond their first.")
    ok: Count = Field(description="Files with a digest.")
    changed: Count = Field(description="Files that were being written to, also when read again.")
    vanished: Count = Field(description="Files that went away before they were read.")
    errors: Count = Field(description="Files and directories that could not be read.")


class FileProblem(Located):
    """A file that has no digest, and why."""

    status: Literal["changed", "vanished", "error"]
    detail: str | None = None


class BuildResult(OperationResult, Totals, Reading):
    """What a build recorded. Its outcome is `partial` if a file has no digest or was left out."""

    manifest: str = Field(description="The id of the manifest.")
    root: str = Field(description="The root that it is of.")
    path: str = Field(description="Relative to the root; empty for all of it.")
    algorithm: Algorithm = Field(description="Of its digests.")
    problems: list[FileProblem] = Field(description="Files without a digest, at most 1000.")
    problems_all: bool = Field(description="Whether no file had to be left out of `problems`.")
    hashed_bytes: Bytes = Field(description="Hashed now, holes included.")
    reused_files: Count = Field(description="Files unchanged since an earlier manifest.")
    reused_bytes: Bytes
    resumed_bytes: Bytes = Field(description="Hashed before this operation was interrupted.")
    previous_unusable: str | None = Field(
        description="Why the earlier manifest was of no use, if it was not."
    )
    record_bytes: Bytes = Field(description="Size of the record file.")
    skipped: dict[str, Count] = Field(
        default_factory=dict, description="The same as `left_out`, as numbers."
    )
    left_out: LeftOutByReason

    @property
    def outcome(self) -> Outcome:
        """`partial` if not all that is there was recorded, but for what a pattern excludes."""
        incomplete = self.changed or self.vanished or self.errors
        nothing = not self.entries and self.left_out
        if incomplete or nothing or self.left_out.keys() - {"excluded"}:
            return Outcome.PARTIAL
        return Outcome.OK


class Finding(Located):
    """Something that is not as it should be, or not the same in two manifests."""

    finding: str
    type: Type
    reason: Literal["content", "size", "type", "target"] | None = None
    detail: str | None = None
    ranges: list[Range] = Field(
        default_factory=list,
        description="Which bytes, `[from, to)`: as fine as the chunks, 64 MiB or more.",
    )
    moved_to: Located | None = None
    fields: list[str] = Field(default_factory=list)
    left_size: Bytes | None = None
    right_size: Bytes | None = None


class VerifyResult(OperationResult, Reading):
    """The result of a verification. The report names every finding, this the first 1000.

    The outcome is `differs` if files differ, are missing or are extra, and `partial` if none does
    but some could not be proven.
    """

    ok: bool = Field(description="Nothing differs, and everything that was asked for was read.")
    why: str | None = Field(
        default=None,
        description="Why it is not `ok` although nothing was found to differ: nothing was verified "
        "because the manifest has no file and what is there was left out.",
    )
    manifest: str = Field(description="The id of the manifest.")
    path: str = Field(description="The directory that was verified.")
    algorithm: Algorithm = Field(description="Of its digests.")
    checked_files: Count = Field(description="Files of which at least a part was read.")
    matching: Count
    mismatched: Count
    missing: Count
    extra: Count
    changed: Count = Field(description="Written to while they were read, also the second time.")
    unreadable: Count
    unproven: Count = Field(description="Of which the manifest itself has no digest.")
    mismatched_bytes: Bytes = Field(description="In the ranges that differ.")
    findings: list[Finding] = Field(description="What is not as recorded, by name.")
    findings_all: bool = Field(description="Whether no finding had to be left out of `findings`.")
    bytes: Bytes = Field(description="Checked, holes included.")
    chunks_checked: Count
    chunks_total: Count
    sample_percent: float | None = Field(
        description="The share of all chunks that was read; null for all of them."
    )
    seed: int | None = Field(description="Makes the choice of chunks the same again.")
    left_out: LeftOutByReason

    @property
    def outcome(self) -> Outcome:
        """`differs` for what is not as recorded, `partial` for what could not be compared."""
        return _judged(self.mismatched or self.missing or self.extra, ok=self.ok)


class CompareResult(OperationResult):
    """In what two manifests differ. The report names every finding, this the first 1000.

    The outcome is `differs` if they differ, and `partial` if they do not as far as they could be
    compared.
    """

    ok: bool = Field(description="Nothing differs, and everything could be compared.")
    left: str = Field(description="The id of the left manifest.")
    right: str = Field(description="The id of the right manifest.")
    identical: Count
    differing: Count
    only_left: Count
    only_right: Count
    moved: Count = Field(description="The same content under another name.")
    metadata: Count = Field(description="The same content with another mode, owner or time.")
    unproven: Count = Field(description="Files of which one side has no digest.")
    differing_bytes: Bytes = Field(description="In the ranges that differ, where they are known.")
    findings: list[Finding] = Field(description="What is not the same, by name.")
    findings_all: bool = Field(description="Whether no finding had to be left out of `findings`.")

    @property
    def outcome(self) -> Outcome:
        """`differs` for what is not the same, `partial` for what could not be compared."""
        lone = self.only_left or self.only_right or self.moved
        return _judged(self.differing or lone or self.metadata, ok=self.ok)


def _judged(differs: object, *, ok: bool) -> Outcome:
    if differs:
        return Outcome.DIFFERS
    return Outcome.OK if ok else Outcome.PARTIAL


class Manifest(Stored, Totals):
    """A stored manifest, read from its record."""

    created_at: datetime
    host: str
    boot_id: str
    root: str
    path: str = Field(description="Relative to the root; empty for all of it.")
    algorithm: Algorithm
    include: list[str]
    exclude: list[str]
    record_bytes: Bytes


class LargeFile(Located):
    """One of the largest files of a manifest."""

    size: Bytes
    digest: str | None = None


class ManifestDetails(Manifest):
    """A stored manifest with some of its files by name."""

    cryptographic: bool = Field(description="Whether its digests find forgeries as well.")
    largest: list[LargeFile]
    problems: list[FileProblem]
    problems_all: bool = Field(description="Whether no file had to be left out of `problems`.")


class ManifestList(BaseModel, defer_build=True):
    """Stored manifests, newest first."""

    manifests: list[Manifest]
    damaged: list[DamagedRecord] = Field(default_factory=list)
