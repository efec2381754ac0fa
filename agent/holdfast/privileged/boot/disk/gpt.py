"""The disk's GPT, as the engine reads and builds it (`rust/media/src/gpt.rs`)."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.engine.requests import encode

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"


@dataclass(frozen=True)
class GptPartition:
    """An entry of the table."""

    number: int
    type: str
    uuid: str
    start: int
    """In the disk's sectors, as `sectors` is."""
    sectors: int
    """0 for one that ends before it begins."""


@dataclass(frozen=True)
class GptTable:
    """A table whose checksums are right; places in the disk's sectors."""

    own: int
    """Where its header is."""
    other: int
    """Where the other header is, if it is still there."""
    entries_at: int
    entries_bytes: int
    partitions: tuple[GptPartition, ...]


@dataclass(frozen=True, kw_only=True)
class NewTable:
    """A table with one system partition, to which two headers lead; places in the disk's sectors.

    `build_gpt` returns its entries, the sector of the first header (1), and that of the second.
    """

    sector_bytes: int
    disk: str
    """The disk's GUID."""
    table: int
    """Where the entries are that the first header leads to."""
    backup: int
    """Where the second header is."""
    backup_table: int
    """Where the entries are that the second header leads to."""
    number: int
    """Of the partition."""
    part_uuid: str
    first: int
    last: int
    name: str


def table_at(disk: Path, lba: int, sector_bytes: int) -> GptTable | None:
    """Return the table of the header in a sector; None where there is none.

    `sector_bytes` is the size of the disk's logical sectors. Raises `OSError`, with `EINVAL` for a
    table that is damaged.
    """
    try:
        found = _engine.read_gpt(disk, lba, sector_bytes)
    except ValueError as error:
        reason = f"its partition table cannot be understood: {error}"
        raise OSError(errno.EINVAL, reason, str(disk)) from None
    if found is None:
        return None
    fields = json.loads(found)
    partitions = tuple(GptPartition(**partition) for partition in fields.pop("partitions"))
    return GptTable(**fields, partitions=partitions)


def partition_at(disk: Path, start_bytes: int, sector_bytes: int = 512) -> GptPartition | None:
    """Return the partition that begins there; None on a disk without a GPT, or such a partition.

    Raises `OSError`, as `table_at` does.
    """
    table = table_at(disk, 1, sector_bytes)
    found = () if table is None else table.partitions
    return next((each for each in found if each.start * sector_bytes == start_bytes), None)


def build_gpt(table: NewTable) -> tuple[bytes, bytes, bytes]:
    """Build the entries and the sectors of both headers. Raises `ValueError` with a clause."""
    return _engine.build_gpt(encode(table))
