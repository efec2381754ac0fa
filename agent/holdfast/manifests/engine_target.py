"""Manifests that the engine makes with other work, and those that it works by: of a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.manifests.store import ManifestStore
from holdfast.records.models import ReservedRecord
from holdfast.storage.atomic_files import make_directory
from holdfast.storage.roots import RootPath


class EngineTarget:
    """A store of manifests as transfers use it."""

    def __init__(self, store: ManifestStore) -> None:
        self._store = store

    def reserve(self, record_id: str, *, replace: bool) -> ReservedRecord:
        """Return where the engine writes a manifest that it will make.

        Raises `RequestError` if the id is taken and may not be replaced, `OSError`.
        """
        make_directory(self._store.directory)
        return ReservedRecord(
            destination=self._store.destination(record_id, replace=replace),
            journal=self._store.journal(record_id),
            max_bytes=self._store.max_bytes,
        )

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
        for manifest in self._store.all()[0]:
            made = (
                manifest.root,
                manifest.path,
                manifest.algorithm,
                manifest.include,
                manifest.exclude,
            )
            if made == wanted and not manifest.uploaded:
                return self.file(manifest.id)
        return None

    def added(self, record_id: str) -> None:
        """Keep a manifest that the engine made, and remove the oldest beyond the limit."""
        self._store.retain(record_id)
