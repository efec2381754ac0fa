"""The stored manifests, and the reports of operations on them."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from holdfast._engine import Progress
from holdfast.manifests.engine_requests import InspectManifest
from holdfast.manifests.models import (
    Algorithm,
    FileProblem,
    LargeFile,
    ManifestDetails,
    Totals,
)
from holdfast.operations.model import RequestError, Slug
from holdfast.records.models import PathText
from holdfast.records.store import RecordStore, inspection, prepare_directory
from holdfast.storage.atomic_files import make_directory

_LARGEST = 10
_JOURNAL = ".journal"
_JOURNAL_DAYS = 7
"""A journal is written to every second; one that was not for so long belongs to no live build."""
_REPORTS_KEPT = 100
_REPORT = ".report.zst"
_Text = Annotated[str, Field(max_length=4096)]


class _Header(BaseModel, defer_build=True):
    """The header of a record; one from elsewhere need not have all fields."""

    algorithm: Algorithm
    root: PathText
    path: _Text = ""
    include: list[_Text] = Field(default_factory=list, max_length=1000)
    exclude: list[_Text] = Field(default_factory=list, max_length=1000)
    created_at: datetime | None = None
    host: _Text = ""
    boot_id: _Text = ""


class _Inspection(Totals):
    header: _Header
    largest: list[LargeFile]
    problems: list[FileProblem]
    problems_all: bool


class ManifestStore(RecordStore[ManifestDetails]):
    """Manifests on disk."""

    noun = "manifest"

    def prepare(self) -> None:
        """Make the directory, and remove what earlier processes left and no process will resume."""
        super().prepare()
        old = time.time() - _JOURNAL_DAYS * 86_400
        for path in self.directory.glob(f".*{_JOURNAL}"):
            # A run without a daemon may be done with its own at any moment.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < old:
                    path.unlink()

    def journal(self, manifest_id: str) -> Path:
        """Return the path of a build's checkpoint: its results so far."""
        return self.directory / f".{manifest_id}{_JOURNAL}"

    def check(self, path: Path, max_bytes: int, progress: Progress) -> _Inspection:
        """Read and check a whole manifest."""
        request = InspectManifest(record=path, max_bytes=max_bytes, largest=_LARGEST)
        return inspection(request, path, _Inspection, progress)

    def describe(
        self, record_id: str, path: Path, *, uploaded: bool, progress: Progress
    ) -> ManifestDetails:
        """Describe a manifest."""
        inspection = self.check(path, self.max_bytes, progress)
        stat = path.stat()
        header: dict[str, Any] = inspection.header.model_dump()
        created_at = header.pop("created_at") or datetime.fromtimestamp(stat.st_mtime, UTC)
        return ManifestDetails(
            id=record_id,
            created_at=created_at,
            **header,
            **inspection.model_dump(exclude={"header"}),
            cryptographic=inspection.header.algorithm == "blake3",
            record_bytes=stat.st_size,
            latest=False,
            uploaded=uploaded,
        )


class ReportStore:
    """Reports on disk, by the ids of the operations that made them; the newest are kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directory, and remove what an earlier process left unfinished in it."""
        prepare_directory(self.directory)

    def destination(self, operation_id: str) -> Path:
        """Where the report of an operation goes; the oldest ones are removed for it."""
        make_directory(self.directory)
        for old in sorted(self.directory.glob(f"*{_REPORT}"))[: -_REPORTS_KEPT + 1]:
            old.unlink(missing_ok=True)
        return self.directory / f"{operation_id}{_REPORT}"

    def find(self, operation_id: str) -> Path:
        """Return the report of an operation. Raises `RequestError` if there is none."""
        path = self.directory / f"{operation_id}{_REPORT}"
        if not operation_id.isalnum() or not path.is_file():
            raise RequestError(
                Slug.NOT_FOUND,
                f"There is no report of operation {operation_id}; it has not finished, found "
                f"nothing out, or is older than the last {_REPORTS_KEPT}.",
                "id",
            )
        return path
