"""Questions about an image that the engine answers by the rules that the imager shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdfast._engine import apply_image_rules
from holdfast.engine.requests import encode


@dataclass(frozen=True, kw_only=True)
class ImageTarget:
    """A disk that an image is to be written to."""

    path: str
    size_bytes: int
    sector_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImageMachine:
    """A machine that an image is to boot."""

    architecture: str
    """As `uname -m` names it."""
    boot_mode: Literal["bios", "uefi"] | None


@dataclass(frozen=True, kw_only=True)
class ImageWishes:
    """What the new system is to get."""

    identity: bool
    grow_root: bool


@dataclass(frozen=True, kw_only=True)
class ImageQuestion:
    """A question; what is None is not asked."""

    image: Mapping[str, Any]
    """A descriptor; members that are absent are not known."""
    target: ImageTarget | None = None
    machine: ImageMachine | None = None
    wishes: ImageWishes | None = None


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """The answer."""

    refusals: list[str]
    """Sentences: why not."""
    notes: list[str]
    """Sentences: what cannot be known."""
    carried_root: int | None
    """The number of the partition that the imager mounts, if there is one."""


def judge(question: ImageQuestion) -> ImageAnswer:
    """Return the engine's answer to a question. Raises `ValueError` for a malformed image."""
    return ImageAnswer(**json.loads(apply_image_rules(encode(question))))
