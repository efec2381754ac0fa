"""What this version of the API can do, for clients that also meet others.

A feature is announced by the router that has it and described in docs/http-api.md; its name stays.
`API_LEVEL` grows by one with each release that adds something, and never shrinks within version 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.api.contract.routing import Router

API_LEVEL = 1


def features_of(routers: Iterable[Router]) -> list[str]:
    """Return what these routers can do, sorted."""
    return sorted(feature for router in routers for feature in router.features)
