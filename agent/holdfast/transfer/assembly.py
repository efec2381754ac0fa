"""Transfers as the settings want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.privileged import privileged
from holdfast.transfer.service import Transfers

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.config import Settings
    from holdfast.transfer.others import ManifestTarget, PageCacheTrees


def transfer_of(
    settings: Settings,
    state_dir: Path,
    *,
    manifests: ManifestTarget,
    page_cache: PageCacheTrees,
) -> Transfers:
    """Make the capability; nothing is written before its `prepare`."""
    return Transfers(
        roots=settings.roots,
        state_dir=state_dir,
        listen=settings.transfer.address,
        addresses=settings.transfer.addresses,
        connections=settings.transfer.connections,
        manifests=manifests,
        page_cache=page_cache,
        writers=privileged(settings.helper).writers,
    )
