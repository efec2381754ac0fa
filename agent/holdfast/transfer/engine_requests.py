"""What the engine is asked to transfer. Sizes and rates are bytes, paths absolute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.engine.pressure import EnginePressure
from holdfast.engine.requests import EngineRequest
from holdfast.storage.roots import RootPath
from holdfast.transfer.models import OtherFilesystems, Proof, TransferTicket


@dataclass(frozen=True, kw_only=True)
class ManifestToMake:
    """The manifest that an end of a transfer makes when all has arrived."""

    destination: Path
    journal: Path
    max_bytes: int
    header: Mapping[str, str]
    exclude: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class OfferToServe:
    """An offer, as the data listener serves it."""

    id: str
    """On the wire: 32 hexadecimal digits."""
    verifier: str
    puller: str | None
    place: RootPath
    exclude: Sequence[Path]
    include_patterns: Sequence[str]
    exclude_patterns: Sequence[str]
    files: Sequence[str] | None
    mounts: OtherFilesystems
    digests: Path
    bytes_per_second: int | None
    pressure: EnginePressure | None
    expires_at: int
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class PullTransfer(EngineRequest):
    """Fetch what a ticket offers, in passes."""

    function = _engine.pull_transfer

    ticket: TransferTicket
    place: RootPath
    state: Path
    connections: int
    most_connections: int
    proof: Proof
    bytes_per_second: int | None
    passes: int
    until_remaining: int
    complete: bool
    overrule_writers: bool
    map_owners: bool
    page_cache: Path | None
    """Where the source's dump is written to, if it is wanted."""
    manifest: ManifestToMake | None


@dataclass(frozen=True, kw_only=True)
class RepairTransfer(EngineRequest):
    """Fetch what differs from the source's manifest."""

    function = _engine.repair_transfer

    ticket: TransferTicket
    place: RootPath
    state: Path
    overwrite_written: bool | None
    bytes_per_second: int | None
