"""Manifests as the settings want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.manifests.service import Manifests

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.config import Settings
    from holdfast.storage.left_out import LeftOut


def manifests_of(settings: Settings, state_dir: Path, left_out: LeftOut | None = None) -> Manifests:
    """Make the capability; nothing is written before its `prepare`."""
    return Manifests(
        left_out=left_out,
        roots=settings.roots,
        state_dir=state_dir,
        kept=settings.manifests.kept,
        reader=settings.manifests.reader,
        max_record_bytes=settings.max_record_bytes,
    )
