"""What `config check` has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What `config check` says about one thing."""

    level: Literal["error", "warning", "note"]
    """A note is no mistake."""
    message: str
