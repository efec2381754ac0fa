"""Caches in memory as the settings want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.memory.service import MemoryStates
from holdfast.privileged import privileged

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.config import Settings


def memory_of(settings: Settings, state_dir: Path) -> MemoryStates:
    """Make the capability; nothing is written before its `prepare`."""
    return MemoryStates(
        roots=settings.memory.roots,
        state_dir=state_dir,
        reserve_bytes=settings.pagecache.reserve_bytes,
        writers=privileged(settings.helper).writers,
    )
