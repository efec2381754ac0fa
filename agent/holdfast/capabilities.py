"""The table of capabilities: how each is made for the daemon, and its routes.

Nothing else names all of them. `daemon.py` makes and runs them, `api/app.py` serves their routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from holdfast.api.contract.routing import Router
from holdfast.api.routes import (
    images,
    manifests,
    memory,
    pagecache,
    reimage,
    transfer,
    tuning,
)
from holdfast.capability import Capability, Surroundings
from holdfast.manifests.assembly import manifests_of
from holdfast.manifests.service import Manifests
from holdfast.manifests.verification import Verifications
from holdfast.memory.assembly import memory_of
from holdfast.pagecache.assembly import pagecache_of
from holdfast.pagecache.service import PageCache
from holdfast.reimage.assembly import reimage_of
from holdfast.transfer.assembly import transfer_of
from holdfast.tuning.assembly import tuning_of

Make = Callable[[Surroundings], Capability]


def _transfer(parts: Surroundings) -> Capability:
    """Give transfers the manifests and the page cache of this node."""
    return transfer_of(
        parts.settings,
        parts.state_dir,
        manifests=parts.other(Manifests).target,
        page_cache=parts.other(PageCache),
    )


def _reimage(parts: Surroundings) -> Capability:
    """Give re-imaging the manifests of this node, which prove that the data are untouched."""
    return reimage_of(parts, Verifications(parts.other(Manifests), parts.operations))


CAPABILITIES: tuple[tuple[Make, tuple[Router, ...]], ...] = (
    (lambda p: pagecache_of(p.settings, p.state_dir, p.left_out), (pagecache.router,)),
    (lambda p: manifests_of(p.settings, p.state_dir, p.left_out), (manifests.router,)),
    (lambda p: memory_of(p.settings, p.state_dir), (memory.router,)),
    (_transfer, (transfer.router,)),
    (lambda p: tuning_of(p.settings, p.state_dir), (tuning.router,)),
    (_reimage, (reimage.router, images.router)),
)
"""In the order in which they are made and started; they are stopped in the reverse order."""

ROUTERS = tuple(router for _, routers in CAPABILITIES for router in routers)


def make_capabilities(parts: Surroundings) -> Sequence[Capability]:
    """Make all of them; nothing is written before their `prepare` is called."""
    for make, _ in CAPABILITIES:
        parts.made.append(make(parts))
    return tuple(parts.made)
