"""The page-cache capability as the settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.pagecache.service import PageCache

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.config import Settings
    from holdfast.storage.left_out import LeftOut


def pagecache_of(settings: Settings, state_dir: Path, left_out: LeftOut | None = None) -> PageCache:
    """Make it; nothing is written before its `prepare`."""
    return PageCache(
        left_out=left_out,
        roots=settings.roots,
        state_dir=state_dir,
        dumps_kept=settings.pagecache.dumps_kept,
        reserve_bytes=settings.pagecache.reserve_bytes,
        max_record_bytes=settings.max_record_bytes,
    )
