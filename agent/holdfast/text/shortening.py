"""Shortens what is too long for a line that a person reads."""

from __future__ import annotations


def shortened(path: str, width: int = 40) -> str:
    """Return the end of a long path, which identifies it better than its beginning."""
    return path if len(path) <= width else f"…{path[1 - width :]}"
