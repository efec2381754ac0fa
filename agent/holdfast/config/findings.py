"""The findings of `config check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One finding of `config check`."""

    level: Literal["error", "warning", "note"]
    """A note is no mistake."""
    message: str
