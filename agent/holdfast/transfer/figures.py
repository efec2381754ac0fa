"""What metrics show of transfers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TransferFigures:
    """Totals since the daemon started, and offers as they are now."""

    sent_bytes: Mapping[str, int]
    """By level of proof."""
    received_bytes: Mapping[str, int]
    """By level of proof."""
    limited_seconds: Mapping[str, float]
    """By what limited passes."""
    offers: Mapping[str, int]
    """By state."""
    connections: int
