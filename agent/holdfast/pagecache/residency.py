"""How much of files is in the page cache, as `GET /v1/pagecache` answers it.

Sizes are bytes unless a name has `pages`. Apart from the operations' models, since a command that
only shows this starts in a moment.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from holdfast.records.models import Bytes, Count, LeftOutByReason, Located


class Residency(Located):
    """How much of one file, directory or root is in the page cache.

    `dirty`, `writeback`, `evicted` and `recently_evicted` come from cachestat(2), Linux 6.5 and
    later, and are null where the kernel has no such call.
    """

    kind: Literal["root", "directory", "file"]
    files: Count
    bytes: int = Field(ge=0, description="Sizes of the files; sparse ones may exceed 2^63.")
    resident: Bytes
    dirty: Bytes | None = None
    writeback: Bytes | None = None
    evicted: Bytes | None = None
    recently_evicted: Bytes | None = None


GroupBy = Literal["table", "index", "file-kind"]
"""By what residency can be grouped."""


class ResidencyGroup(Located):
    """How much of the files that belong together in a datastore is in the page cache.

    `path` is the directory of the group: a data directory, a table's, an index's; what was asked
    for where its files are in several.
    """

    store: Literal["postgresql", "cassandra", "lucene", "rocksdb"] | None = Field(
        description="Null for the files that belong to no store that is known."
    )
    kind: str | None = Field(
        description="The kind of the files, by `file-kind`: for example `table`, `index`, `toast`, "
        "`fsm`, `vm`, `wal` of PostgreSQL, `data`, `filter` of Cassandra, `compound` of Lucene, "
        "`sst` of RocksDB."
    )
    name: str | None = Field(
        description="The name of the table or index, by `table` and `index`; null for the files of "
        "a store that are of none. U+FFFD stands in it for what is not UTF-8."
    )
    name_b64: str | None = Field(
        default=None, description="The bytes of a name that is not UTF-8, in base64."
    )
    files: Count
    bytes: int = Field(ge=0, description="Sizes of the files; sparse ones may exceed 2^63.")
    resident: Bytes
    dirty: Bytes | None = None
    writeback: Bytes | None = None
    evicted: Bytes | None = None
    recently_evicted: Bytes | None = None


class RestOfGroups(BaseModel, defer_build=True):
    """The groups that were not listed, together."""

    groups: Count
    files: Count
    bytes: int = Field(ge=0)
    resident: Bytes
    dirty: Bytes | None = None
    writeback: Bytes | None = None
    evicted: Bytes | None = None
    recently_evicted: Bytes | None = None


class GroupedResidency(BaseModel, defer_build=True):
    """All files of a report in groups, those with most in memory first; sums equal its total."""

    by: GroupBy
    groups: list[ResidencyGroup]
    rest: RestOfGroups
    notes: list[str] = Field(description="Why some have no name, a sentence each.")


class ResidencyReport(BaseModel, defer_build=True):
    """Residency of one path: its total, its directories down to a level, its largest residents."""

    root: str
    total: Residency
    directories: list[Residency]
    files: list[Residency]
    grouped: GroupedResidency | None = Field(
        default=None, description="The same files by table, index or kind, where `by` asks for it."
    )
    skipped: dict[str, Count] = Field(default_factory=dict)
    left_out: LeftOutByReason
    method: Literal["cachestat", "mincore"]


class UnavailableRoot(BaseModel, defer_build=True):
    """A root that could not be inspected, and why."""

    root: str
    detail: str


class PageCacheState(BaseModel, defer_build=True):
    """What `GET /v1/pagecache` answers: one report per root, or one for the path asked for."""

    page_size: int
    reports: list[ResidencyReport]
    unavailable: list[UnavailableRoot] = Field(default_factory=list)
