"""What the engine is asked to do with tmpfs roots. Rates are bytes a second, paths absolute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.engine.requests import EngineRequest

_NAMES = Path("/etc")


@dataclass(frozen=True, kw_only=True)
class SaveMemory(EngineRequest):
    """Save the files of a root to an empty directory on a volume."""

    function = _engine.save_memory

    root: Path
    leave_out: Sequence[Path]
    include: Sequence[str]
    exclude: Sequence[str]
    directory: Path
    header: Mapping[str, str]
    even_if_changed: bool
    bytes_per_second: int | None
    names: Path = _NAMES
    """Where users and groups have their names."""


@dataclass(frozen=True, kw_only=True)
class InspectMemorySave(EngineRequest):
    """Check a save, and compare it with a root."""

    function = _engine.inspect_memory_save

    root: Path
    save: Path


@dataclass(frozen=True, kw_only=True)
class StageMemory(EngineRequest):
    """Put a save together beside the files of a root."""

    function = _engine.stage_memory

    root: Path
    save: Path
    replace: bool
    bytes_per_second: int | None
    names: Path = _NAMES
    """Where users and groups have their names."""


@dataclass(frozen=True, kw_only=True)
class CommitMemory(EngineRequest):
    """Rename what was staged into place."""

    function = _engine.commit_memory

    root: Path


@dataclass(frozen=True, kw_only=True)
class RecoverMemory(EngineRequest):
    """Complete or discard what an earlier restore left."""

    function = _engine.recover_memory

    root: Path


@dataclass(frozen=True, kw_only=True)
class DiscardMemory(EngineRequest):
    """Remove what was staged."""

    function = _engine.discard_memory

    root: Path
