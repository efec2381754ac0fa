"""What the engine is asked to do with the page cache. Sizes and rates are bytes, paths absolute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast import _engine
from holdfast.engine.requests import EngineRequest
from holdfast.pagecache.models import LoadOrder, Policy
from holdfast.pagecache.residency import GroupBy
from holdfast.storage.roots import RootPath


@dataclass(frozen=True, kw_only=True)
class MeasureResidency(EngineRequest):
    """Measure how much of a place is in memory."""

    function = _engine.measure_residency

    place: RootPath
    exclude: Sequence[Path]
    depth: int
    top: int
    by: GroupBy | None


@dataclass(frozen=True, kw_only=True)
class DumpPages(EngineRequest):
    """Record which pages are in memory."""

    function = _engine.dump_pages

    places: Sequence[RootPath]
    exclude: Sequence[Path]
    destination: Path
    header: Mapping[str, str]
    on_denied: Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class LoadPages(EngineRequest):
    """Read the pages of a record back into memory."""

    function = _engine.load_pages

    record: Path
    max_bytes: int
    """Of the record, to decompress at most."""
    roots: Sequence[Path]
    """Where each root of the record is now, in its order."""
    policy: Policy
    budget_bytes: int | None
    reserve_bytes: int
    bytes_per_second: int | None
    report_all: bool
    earlier: Sequence[Path] = ()
    """Records of the same roots before it, the newest first."""
    order: LoadOrder = "auto"
    yield_at: float | None = None
    """The share after which it leaves the device to others."""


@dataclass(frozen=True, kw_only=True)
class EvictPages(EngineRequest):
    """Drop clean pages from memory."""

    function = _engine.evict_pages

    places: Sequence[RootPath]
    exclude: Sequence[Path]
    sync: bool


@dataclass(frozen=True, kw_only=True)
class InspectDump(EngineRequest):
    """Read and check a whole dump."""

    function = _engine.inspect_dump

    record: Path
    max_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImportHappycache(EngineRequest):
    """Make a dump of a file that happycache wrote."""

    function = _engine.import_happycache

    source: Path
    destination: Path
    root: Path
    header: Mapping[str, str]
    max_bytes: int


@dataclass(frozen=True, kw_only=True)
class ExportHappycache(EngineRequest):
    """Write a dump to an open descriptor as happycache reads it."""

    function = _engine.export_happycache

    source: Path
    output: int
    max_bytes: int
