"""What this version of the API can do, for clients that also meet others.

A feature is announced here and described in docs/http-api.md. `API_LEVEL` grows by one with each
release that adds something, and never shrinks within version 1.
"""

from __future__ import annotations

API_LEVEL = 1

FEATURES = (
    "attempt-precondition",
    "confirm-when",
    "idempotency-key",
    "images",
    "interlock",
    "memory",
    "node-id",
    "traceparent",
    "transfers",
)
"""Names that stay; sorted."""
