"""Manifests that the engine makes with other work, and those that it works by: of a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.atomic_files import make_directory
from holdfast.manifests.store import ManifestStore
from holdfast.roots import RootPath


class EngineTarget:
    """A store of manifests as transfers use it."""

    def __init__(self, store: ManifestStore) -> None:
        self._store = store

    def reserve(self, record_id: str, *, replace: bool) -> dict[str, Any]:
        """Return `destination`, `journal` and `max_bytes` of a manifest that the engine will make.

        Raises `RequestError` if the id is taken and may not be replaced, `OSError`.
        """
        make_directory(self._store.directory)
        return {
            "destination": str(self._store.destination(record_id, replace=replace)),
            "journal": str(self._store.journal(record_id)),
            "max_bytes": self._store.max_bytes,
        }

    def stored(self, record_id: str) -> bool:
        """Whether there is a manifest of this id."""
        return self.file(record_id) is not None

    def file(self, record_id: str) -> tuple[Path, int] | None:
        """Return the record file of a manifest and the bytes to decompress of it at most."""
        for path in self._store.made_here():
            if path.name.startswith(record_id):
                return path, self._store.max_bytes
        return None

    def built(
        self, place: RootPath, include: Sequence[str], exclude: Sequence[str]
    ) -> tuple[Path, int] | None:
        """Return, as `file` does, the newest manifest of a directory with these patterns."""
        wanted = (str(place.root), place.path, "xxh64", list(include), list(exclude))
        for one in self._store.all()[0]:
            made = (one.root, one.path, one.algorithm, one.include, one.exclude)
            if made == wanted and not one.uploaded:
                return self.file(one.id)
        return None

    def added(self, record_id: str) -> None:
        """Keep a manifest that the engine made, and remove the oldest beyond the limit."""
        self._store.retain(record_id)
