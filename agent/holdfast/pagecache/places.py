"""Which parts of roots a request for the page cache means: to dump, load, evict or show."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.storage.volumes import missing
from holdfast.operations.model import RequestError, Slug
from holdfast.pagecache.models import Dump, DumpRequest, EvictRequest, LoadRequest
from holdfast.pagecache.residency import UnavailableRoot
from holdfast.storage.roots import RootPath, Roots


class Places:
    """The roots of this node, as requests name them. Methods raise `RequestError`."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def shown(self, path: str | None) -> tuple[list[RootPath], list[UnavailableRoot]]:
        """Return what is shown, and which roots cannot be."""
        if path is not None:
            return [self._roots.find(path, "path")], []
        reasons = {root: missing(root) for root in self._roots.roots}
        return [RootPath(root) for root, reason in reasons.items() if reason is None], [
            UnavailableRoot(root=str(root), detail=f"It {reason}; mount the data volume.")
            for root, reason in reasons.items()
            if reason is not None
        ]

    def to_dump(self, params: DumpRequest) -> list[RootPath]:
        """Return what to dump."""
        if params.path is not None:
            place = self._roots.find(params.path, "path")
            if params.root is not None and self._roots.root(params.root, "root").root != place.root:
                raise RequestError(
                    Slug.OUTSIDE_ROOTS, f"{params.path} is not in root {params.root}.", "path"
                )
            return [place]
        if params.root is not None:
            return [self._roots.root(params.root, "root")]
        return self._roots.all()

    def to_load(self, params: LoadRequest, dump: Dump) -> list[Path]:
        """Return where each root of a dump is on this node."""
        if params.root is None:
            try:
                return [self._roots.root(root, "dump").root for root in dump.roots]
            except RequestError as error:
                raise RequestError(
                    error.slug,
                    f"{error.detail} Dump {dump.id} was made there; say with `root` where to load "
                    "it.",
                    "root",
                ) from None
        if len(dump.roots) > 1:
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"Dump {dump.id} has {len(dump.roots)} roots, so they cannot all be loaded into "
                "one; leave `root` out.",
                "root",
            )
        return [self._roots.root(params.root, "root").root]

    def to_evict(self, params: EvictRequest) -> list[RootPath]:
        """Return what to evict."""
        return [self._roots.find(path, f"paths.{nth}") for nth, path in enumerate(params.paths)]


def limits(places: Sequence[RootPath]) -> dict[str, str]:
    """Return what the header of a dump says about the part of its root that it is of."""
    limit = next((place.path for place in places if place.path), None)
    return {} if limit is None else {"path": limit}


def inspection_error(path: str, error: OSError | ValueError) -> Exception:
    """Distinguish what is wrong with the path from what is wrong with the machine."""
    if isinstance(error, OSError):
        # It was a file or directory in a root when it was checked; another process changed it
        # since.
        slugs = {
            errno.ENOENT: Slug.NOT_FOUND,
            errno.ENOTDIR: Slug.NOT_FOUND,
            errno.ELOOP: Slug.OUTSIDE_ROOTS,
            errno.EXDEV: Slug.OUTSIDE_ROOTS,
        }
        slug = slugs.get(error.errno or 0)
        if slug is None:
            return error
        detail = f"{path} cannot be inspected: {error.strerror}."
    else:
        slug, detail = Slug.INVALID_REQUEST, f"{error}."
    return RequestError(slug, detail, "path")
