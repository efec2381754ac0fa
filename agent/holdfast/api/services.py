"""What the HTTP interface is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.config import Settings
    from holdfast.manifests.service import Manifests
    from holdfast.metrics import Metrics
    from holdfast.node.service import Node
    from holdfast.operations.service import Operations
    from holdfast.pagecache.service import PageCache
    from holdfast.reimage.service import Reimage
    from holdfast.tuning.service import Tuning


def _nothing_wrong() -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Services:
    """The parts that routes call; `daemon.py` puts them together."""

    settings: Settings
    state_dir: Path
    operations: Operations
    pagecache: PageCache
    manifests: Manifests
    tuning: Tuning
    reimage: Reimage
    node: Node
    metrics: Metrics
    degraded: Callable[[], Sequence[str]] = _nothing_wrong
    """Sentences on what keeps this daemon from being ready; cheap, as `/readyz` calls it."""
