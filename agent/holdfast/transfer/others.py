"""What a transfer needs of other capabilities, which are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from holdfast._engine import Progress
    from holdfast.records.models import ReservedRecord
    from holdfast.storage.roots import RootPath


class ManifestTarget(Protocol):
    """Where the manifests of a completed transfer go."""

    def reserve(self, record_id: str, *, replace: bool) -> ReservedRecord:
        """Return where the engine writes a manifest. Raises `RequestError`."""

    def stored(self, record_id: str) -> bool:
        """Whether there is such a manifest."""

    def file(self, record_id: str) -> tuple[Path, int] | None:
        """Return the record file of a manifest and the bytes to decompress of it at most."""

    def built(
        self, place: RootPath, include: Sequence[str], exclude: Sequence[str]
    ) -> tuple[Path, int] | None:
        """Return, as `file` does, the newest manifest of a directory with these patterns."""

    def added(self, record_id: str) -> None:
        """Take note of a manifest that the engine made."""


class PageCacheTrees(Protocol):
    """Records of what is in memory of one directory, wherever it is."""

    def dump_tree(self, directory: Path, destination: Path) -> None:
        """Record what is resident. Raises `OSError`, `ValueError`, `EngineError`."""

    def load_tree(self, record: Path, directory: Path, progress: Progress) -> dict[str, Any]:
        """Load what a record names.

        Raises `RecordError` if it cannot be trusted, `OSError`, `ValueError`, `CancelledError`.
        """
