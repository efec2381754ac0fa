"""The configured tmpfs roots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.memory.models import MemoryRoot
from holdfast.node.storage.mounts import mount_of, read_mounts
from holdfast.node.storage.volumes import missing
from holdfast.operations.model import RequestError, Slug


class MemoryRoots:
    """Finds a root by its path, and checks whether it can be used."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    @property
    def only(self) -> str | None:
        """The root that is meant where none is named."""
        return str(self._roots[0]) if len(self._roots) == 1 else None

    def find(self, named: str | None) -> Path:
        """Return a root by its path, or the only one.

        Raises `RequestError` if it is not configured, not there, or not on tmpfs.
        """
        if not self._roots:
            raise RequestError(
                Slug.CONFLICT,
                "This node has no roots in memory; set `memory.roots` and restart holdfast.",
                "root",
            )
        names = ", ".join(map(str, self._roots))
        if named is None:
            if self.only is None:
                raise RequestError(
                    Slug.INVALID_REQUEST, f"There are several roots; name one of {names}.", "root"
                )
            named = self.only
        root = next((root for root in self._roots if str(root) == (named.rstrip("/") or "/")), None)
        if root is None:
            raise RequestError(
                Slug.OUTSIDE_ROOTS,
                f"{named} is not a root of `memory.roots`; those are {names}.",
                "root",
            )
        problem = problem_of(root)
        if problem is not None:
            raise RequestError(Slug.UNAVAILABLE, f"{root} {problem}; mount a tmpfs there.", "root")
        return root

    def all(self) -> list[MemoryRoot]:
        """Return all roots as they are now."""
        return [_described(root) for root in self._roots]

    def figures(self) -> list[tuple[str, int | None]]:
        """Return the bytes in use of each root; None of one that cannot be used."""
        found = self.all()
        return [(root.root, None if root.problem else root.used_bytes) for root in found]

    def used_bytes(self, root: Path) -> int:
        """Return the bytes in use in the tmpfs of a root. Raises `OSError`."""
        found = os.statvfs(root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize


def problem_of(root: Path) -> str | None:
    """Return why a root cannot be saved or restored, as in `is not on tmpfs`; None if it can."""
    reason = missing(root)
    if reason is not None:
        return reason
    if os.path.realpath(root) != str(root):
        return "leads through a symbolic link"
    try:
        mount = mount_of(root, read_mounts())
    except OSError as error:
        return f"cannot be inspected ({error.strerror})"
    if mount is None or mount.file_system != "tmpfs":
        kind = "nothing that is mounted" if mount is None else mount.file_system
        return f"is on {kind}, not on tmpfs"
    return None


def _described(root: Path) -> MemoryRoot:
    problem = problem_of(root)
    if problem is not None:
        return MemoryRoot(root=str(root), problem=problem)
    try:
        found = os.statvfs(root)
    except OSError as error:
        return MemoryRoot(root=str(root), problem=f"cannot be inspected ({error.strerror})")
    return MemoryRoot(
        root=str(root),
        size_bytes=found.f_blocks * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
    )
