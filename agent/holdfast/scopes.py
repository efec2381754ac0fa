"""What callers may do, from least to most, and the scope that other nodes have."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a caller may do; each includes those before it, except that `images` stands alone."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    IMAGES = "images"
    """Download the staged image, and nothing else. Only `admin` includes it: an image may hold
    secrets that are not for everyone who reads metrics."""

    def includes(self, needed: Scope) -> bool:
        """Whether this scope allows what needs `needed`."""
        if Scope.IMAGES in (self, needed):
            return self in (needed, Scope.ADMIN)
        order = list(Scope)
        return order.index(self) >= order.index(needed)
