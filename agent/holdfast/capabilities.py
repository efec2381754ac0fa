"""The capabilities that need no daemon, made from the settings: one way for all who use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.manifests.service import Manifests
from holdfast.memory.service import MemoryStates
from holdfast.pagecache.service import PageCache
from holdfast.privileged import privileged
from holdfast.transfer.service import Transfers
from holdfast.tuning.service import Tuning

if TYPE_CHECKING:
    from holdfast.config import Settings
    from holdfast.left_out import LeftOut


@dataclass(frozen=True)
class Capabilities:
    """What a node can do, for a daemon and for commands with `--local` alike."""

    pagecache: PageCache
    manifests: Manifests
    tuning: Tuning
    transfer: Transfers
    memory: MemoryStates


def capabilities_of(
    settings: Settings, state_dir: Path, left_out: LeftOut | None = None
) -> Capabilities:
    """Make the capabilities; nothing is written before their `prepare` is called.

    `left_out` counts for metrics what belongs to no root.
    """
    manifests = Manifests(
        left_out=left_out,
        roots=settings.roots,
        state_dir=state_dir,
        kept=settings.manifests.kept,
        reader=settings.manifests.reader,
        max_record_bytes=settings.max_record_bytes,
    )
    pagecache = PageCache(
        left_out=left_out,
        roots=settings.roots,
        state_dir=state_dir,
        dumps_kept=settings.pagecache.dumps_kept,
        reserve_bytes=settings.pagecache.reserve_bytes,
        max_record_bytes=settings.max_record_bytes,
    )
    writer = privileged(settings.helper)
    return Capabilities(
        pagecache=pagecache,
        manifests=manifests,
        tuning=Tuning(
            roots=settings.roots,
            state_dir=state_dir,
            profiles_dir=settings.tuning.profiles_dir,
            journal_dir=settings.tuning.journal_dir,
            privileged=writer,
        ),
        transfer=Transfers(
            roots=settings.roots,
            state_dir=state_dir,
            listen=settings.transfer.address,
            addresses=settings.transfer.addresses,
            connections=settings.transfer.connections,
            manifests=manifests.target,
            page_cache=pagecache,
            writers=writer.writers,
        ),
        memory=MemoryStates(
            roots=settings.memory.roots,
            state_dir=state_dir,
            reserve_bytes=settings.pagecache.reserve_bytes,
            writers=writer.writers,
        ),
    )
