"""Requests and results of the page-cache capability.

The same models describe the HTTP bodies, the stored operations and, as JSON, the calls into the
engine. Sizes are bytes unless a name has `pages`; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

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

HARMLESS_SKIPS = frozenset({"symlink", "special", "hardlink", "vanished"})
"""Reasons to skip a name that leave no page out: there is none, or it is counted elsewhere."""
Policy = Literal["strict", "clamp", "any"]
"""Which files still count as those dumped."""


class SkippedFile(Located):
    """A file that was skipped, and why."""

    reason: str
    detail: str | None = None


class DumpRequest(Request):
    """Record which pages are resident."""

    root: AbsolutePath | None = Field(
        default=None, description="A configured root; all of them when left out."
    )
    path: AbsolutePath | None = Field(
        default=None, description="Only this file or directory, which must be in a root."
    )
    hotness: bool = Field(
        default=False,
        description="Has no effect: the kernel's marks of recent use do not predict which pages "
        "are needed next.",
        json_schema_extra={"deprecated": True},
    )
    on_denied: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do about files whose residency the kernel does not report to this "
        "process.",
    )


class DumpResult(OperationResult):
    """What a dump recorded; `partial` if files were skipped that could have pages."""

    dump: str = Field(description="The id of the dump.")
    roots: list[str] = Field(description="The roots that it is of.")
    files: Count = Field(description="Files with at least one resident page.")
    files_scanned: Count
    bytes: Bytes = Field(description="Bytes of resident pages recorded.")
    pages: Count
    page_size: int = Field(description="In bytes.")
    record_bytes: Bytes = Field(description="Size of the record file.")
    skipped: dict[str, Count] = Field(
        default_factory=dict, description="Names that were skipped, by reason."
    )
    examples: list[SkippedFile] = Field(
        default_factory=list, description="Some of those that were skipped, by name."
    )
    left_out: LeftOutByReason
    method: Literal["cachestat", "mincore"] = Field(
        description="The call that reported which pages are resident."
    )
    hotness: bool = Field(
        default=False, description="False.", json_schema_extra={"deprecated": True}
    )

    @property
    def outcome(self) -> Outcome:
        """`partial` if files that could have pages were skipped."""
        return _unless(self.skipped.keys() - HARMLESS_SKIPS)


class Dump(Stored):
    """A stored dump, read from its record's header and trailer."""

    created_at: datetime
    host: str
    boot_id: str
    roots: list[str]
    path: str | None = Field(
        default=None, description="The file or directory that it is limited to, below its root."
    )
    page_size: int
    files: Count
    bytes: Bytes
    record_bytes: Bytes
    hotness: bool = Field(
        description="Whether its pages are in tiers, as an earlier version could record them; they "
        "are loaded alike.",
        json_schema_extra={"deprecated": True},
    )


class DumpList(BaseModel, defer_build=True):
    """Stored dumps, newest first."""

    dumps: list[Dump]
    damaged: list[DamagedRecord] = Field(default_factory=list)


class ResidencyPoint(BaseModel, defer_build=True):
    """What was resident when a dump of whole roots was made."""

    at: datetime
    roots: list[str] = Field(description="The roots that it is of.")
    resident: Bytes = Field(description="Bytes of resident pages of all of them.")
    files: Count = Field(description="Files with at least one resident page.")
    dump: str = Field(description="The id of the dump, which may have been removed since.")
    outcome: Outcome = Field(description="`partial` if files were skipped that could have pages.")


class ResidencyHistory(BaseModel, defer_build=True):
    """What was resident over time, the oldest first."""

    since: datetime
    until: datetime
    points: list[ResidencyPoint]


LoadOrder = Literal["auto", "dumps", "share"]
"""When a load goes by the expected use of the pages."""


class LoadRequest(Request):
    """Read the pages of a dump back into memory."""

    dump: str = Field(default="latest", max_length=64, description="A dump's id, or `latest`.")
    root: AbsolutePath | None = Field(
        default=None,
        description="The configured root to load into, for a dump of one root made elsewhere.",
    )
    policy: Policy = Field(
        default="clamp",
        description=(
            "Which files still count as those dumped. `strict`: same size and modification time. "
            "`clamp`: whatever has the name; pages beyond its present end are dropped. `any`: like "
            "`clamp`, and a dump of another page size is converted by byte ranges."
        ),
    )
    budget_bytes: Bytes | None = Field(
        default=None,
        description="Load at most this much. The memory that is free is always a limit as well.",
    )
    reserve_bytes: Bytes | None = Field(
        default=None, description="Leave this much memory available; default from the settings."
    )
    bytes_per_second: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Rate limit on what is read from the device."
    )
    order: LoadOrder = Field(
        default="auto",
        description="Which pages come first. `auto`: where the budget does not allow all of the "
        "dump, those that up to six dumps show to be needed most; else as they are on the device. "
        "`dumps`: those also where all of it is allowed, so that they are there before the end. "
        "`share`: never; under a budget an even share of every file. Without an earlier dump of "
        "the same roots it is an even share in any case.",
    )
    yield_at: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Once this share is loaded, of the expected hits where dumps decide and else "
        "of the bytes, read one piece after the other, so that a datastore which is started then "
        "has the device.",
    )
    report: Literal["incomplete", "all"] = Field(
        default="incomplete", description="Which files the result names one by one."
    )


class LoadedFile(Located):
    """The outcome of one file of a dump; bytes of whole pages."""

    requested: Bytes
    already_resident: Bytes
    loaded: Bytes
    missing: Bytes
    skipped: Bytes
    reason: str | None = Field(default=None, description="Why something was skipped.")
    detail: str | None = None


class UnusedDump(BaseModel, defer_build=True):
    """An earlier dump that could not help to decide, and why."""

    dump: str
    detail: str


class LoadResult(OperationResult):
    """What a load asked for and what the kernel confirmed afterwards.

    `requested = already_resident + loaded + missing + skipped_bytes`; all of them bytes of whole
    pages. The outcome is `partial` unless all of it is resident; holes hold nothing to load.
    """

    dump: str = Field(description="The id of the dump.")
    requested: Bytes
    already_resident: Bytes
    loaded: Bytes
    missing: Bytes = Field(description="Asked for, retried, and still not in memory.")
    skipped_bytes: Bytes = Field(description="Not asked for: see `skipped` for the reasons.")
    recall: float = Field(
        ge=0,
        le=1,
        description="The resident share of what was requested and can be loaded: all but what has "
        "vanished, changed, or is a hole. What the budget cut off counts as not resident.",
    )
    budget_recall: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="The resident share of what was asked for before the budget or free memory ran "
        "out; null in results of versions that did not record it.",
    )
    order: Literal["device", "share", "dumps"] | None = Field(
        default=None,
        description="What decided which pages came first. `device`: all of it was allowed, so "
        "their order on the device. `share`: an even share of every file. `dumps`: the expected "
        "use. Null in results of versions that did not record it.",
    )
    order_detail: str | None = Field(
        default=None, description="Why it was not `dumps`, where it was to be."
    )
    dumps: list[str] = Field(
        default_factory=list,
        description="The dumps that decided: the one that was loaded, and those before it, newest "
        "first. Empty unless `order` is `dumps`.",
    )
    dumps_left_out: list[UnusedDump] = Field(
        default_factory=list, description="Earlier dumps that could not be used."
    )
    expected_hits: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="The share of the expected uses of the dump's pages that falls on those that "
        "are resident, of what can be loaded: an estimate from the dumps. Null unless `order` is "
        "`dumps`.",
    )
    files: Count
    files_complete: Count
    skipped: dict[str, Count] = Field(
        default_factory=dict, description="Reason to number of files."
    )
    skipped_bytes_by_reason: dict[str, Count] = Field(
        default_factory=dict, description="Reason to bytes that were not asked for."
    )
    left_out: LeftOutByReason
    reported: list[LoadedFile] = Field(
        default_factory=list,
        description="Files that fell short, or all if asked for: at most 1000, or 100000.",
    )
    reported_all: bool = Field(description="Whether no file had to be left out of `reported`.")
    budget: Bytes = Field(description="Bytes that were allowed to be loaded.")
    budget_limit: str = Field(
        description="What set the budget: `request`, `memory`, or the cgroup that is the tightest."
    )
    retried: Bytes = Field(description="Read a second time, since the first read left them absent.")
    stopped: Literal["budget", "memory_pressure"] | None = Field(
        default=None, description="Why it ended before everything was asked for."
    )

    @property
    def outcome(self) -> Outcome:
        """`partial` unless everything of the dump is resident."""
        skipped = self.skipped_bytes - self.skipped_bytes_by_reason.get("hole", 0)
        return _unless(self.missing or skipped > 0 or self.stopped is not None)


class EvictRequest(Request):
    """Drop clean pages of files from the page cache."""

    paths: Annotated[list[AbsolutePath], Field(min_length=1, max_length=1000)]
    sync: bool = Field(
        default=False, description="Write dirty pages out first, so that they can be dropped too."
    )


class RetainedFile(Located):
    """A file of which pages stayed in memory."""

    retained: Bytes
    dirty: Bytes | None = None
    writeback: Bytes | None = None
    reasons: list[str] = Field(
        description="For example `dirty`, `writeback`, `mapped by cassandra[812]`, `locked by …`."
    )


class EvictResult(OperationResult):
    """What an eviction dropped and what stayed. Its outcome is `partial` if anything stayed."""

    files: Count
    resident_before: Bytes
    evicted: Bytes
    retained: Bytes
    retained_files: list[RetainedFile] = Field(description="Files of which pages stayed, and why.")
    skipped: dict[str, Count] = Field(
        default_factory=dict, description="Names that were skipped, by reason."
    )
    examples: list[SkippedFile] = Field(
        default_factory=list, description="Some of those that were skipped, by name."
    )
    left_out: LeftOutByReason

    @property
    def outcome(self) -> Outcome:
        """`partial` if pages stayed, or files were skipped that could have some."""
        return _unless(self.retained or self.skipped.keys() - HARMLESS_SKIPS)


def _unless(incomplete: object) -> Outcome:
    return Outcome.PARTIAL if incomplete else Outcome.OK
