"""What the engine is asked to do with manifests. Sizes and rates are bytes, paths absolute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast import _engine
from holdfast.engine.pressure import EnginePressure
from holdfast.engine.requests import EngineRequest
from holdfast.manifests.models import Algorithm
from holdfast.storage.roots import RootPath

Text = Literal["jsonl", "xxhsum", "xxhsum_escaped"]
Reader = Literal["auto", "io_uring", "pread", "buffered"]


@dataclass(frozen=True, kw_only=True)
class BuildManifest(EngineRequest):
    """Record every file below a place with its digest."""

    function = _engine.build_manifest

    place: RootPath
    exclude: Sequence[Path]
    include_patterns: Sequence[str]
    exclude_patterns: Sequence[str]
    algorithm: Algorithm
    destination: Path
    journal: Path
    previous: Sequence[Path]
    """Manifests made here, of which the digests of unchanged files are taken."""
    max_bytes: int
    """Of a previous manifest, to decompress at most."""
    header: Mapping[str, str]
    bytes_per_second: int | None
    pressure: EnginePressure | None
    reader: Reader


@dataclass(frozen=True, kw_only=True)
class VerifyManifest(EngineRequest):
    """Read the files that a manifest lists, and find what differs."""

    function = _engine.verify_manifest

    record: Path
    max_bytes: int
    place: RootPath
    exclude: Sequence[Path]
    sample_percent: float | None
    seed: int
    report: Path
    header: Mapping[str, str]
    bytes_per_second: int | None
    pressure: EnginePressure | None
    reader: Reader


@dataclass(frozen=True, kw_only=True)
class CompareManifests(EngineRequest):
    """Find in what two manifests differ."""

    function = _engine.compare_manifests

    left: Path
    right: Path
    max_bytes: int
    report: Path
    header: Mapping[str, str]
    identical: bool


@dataclass(frozen=True, kw_only=True)
class InspectManifest(EngineRequest):
    """Read and check a whole manifest."""

    function = _engine.inspect_manifest

    record: Path
    max_bytes: int
    largest: int
    """How many of the largest files to name."""


@dataclass(frozen=True, kw_only=True)
class ExportManifest(EngineRequest):
    """Write a manifest or a report as text to an open descriptor."""

    function = _engine.export_manifest

    source: Path
    output: int
    max_bytes: int
    form: Text
