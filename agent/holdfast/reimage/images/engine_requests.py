"""What the engine is asked about disk images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.engine.requests import EngineRequest


@dataclass(frozen=True, kw_only=True)
class DescribeImage(EngineRequest):
    """Read an image and make its descriptor."""

    function = _engine.describe_image

    file: Path
    name: str
    image_version: str
    created: str
    """RFC 3339."""
    root_partition: int | None


@dataclass(frozen=True, kw_only=True)
class InspectImage(EngineRequest):
    """Inspect an image, without digests."""

    function = _engine.inspect_image

    file: Path
    root_partition: int | None


@dataclass(frozen=True, kw_only=True)
class PackImage(EngineRequest):
    """Pack a raw image with zstd into a new file."""

    function = _engine.pack_image

    file: Path
    output: Path


@dataclass(frozen=True, kw_only=True)
class VerifyImage(EngineRequest):
    """Check the file of an image against its descriptor."""

    function = _engine.verify_image

    file: Path
    descriptor: Path
    descriptor_sha256: str | None
