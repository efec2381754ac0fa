"""What callers may do, from least to most."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a caller may do; each includes those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, needed: Scope) -> bool:
        """Whether this scope allows what needs `needed`."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)
