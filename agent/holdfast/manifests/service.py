"""The manifest capability: what it can do, in terms of the engine's calls."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast._engine import Progress
from holdfast.capability import Capability
from holdfast.engine.pressure import engine_limit
from holdfast.engine.requests import call
from holdfast.manifests.engine_requests import (
    BuildManifest,
    CompareManifests,
    ExportManifest,
    Reader,
    Text,
    VerifyManifest,
)
from holdfast.manifests.engine_target import EngineTarget
from holdfast.manifests.models import (
    BuildRequest,
    BuildResult,
    CompareRequest,
    CompareResult,
    Manifest,
    ManifestDetails,
    ManifestList,
    VerifyParams,
    VerifyResult,
)
from holdfast.manifests.store import ManifestStore, ReportStore
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import RequestError, Slug
from holdfast.records.conversions import Write
from holdfast.records.patterns import check_patterns
from holdfast.records.provenance import provenance
from holdfast.records.uploads import Upload
from holdfast.storage import space
from holdfast.storage.atomic_files import make_directory
from holdfast.storage.left_out import LeftOut
from holdfast.storage.roots import RootPath, Roots

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

BUILD, VERIFY, COMPARE = "manifest.build", "manifest.verify", "manifest.compare"

Params = BuildRequest | VerifyParams | CompareRequest
Form = Literal["native"] | Text


class Manifests(Capability):
    """Builds, verifies and compares manifests of what is below the roots."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        kept: int,
        reader: Reader,
        max_record_bytes: int,
        left_out: LeftOut | None = None,
    ) -> None:
        self._left_out = left_out or LeftOut()
        self._places = Roots(roots, state_dir)
        self._exclude = [state_dir]
        self._state_dir = state_dir
        self._reader = reader
        self._max_record_bytes = max_record_bytes
        self._store = ManifestStore(
            state_dir / "manifests", kept=kept, max_record_bytes=max_record_bytes
        )
        self.target = EngineTarget(self._store)
        self._reports = ReportStore(state_dir / "reports")
        self._lock = threading.Lock()
        self._verified = {(str(root), ok): 0 for root in roots for ok in (True, False)}

    def prepare(self) -> None:
        """Make the directories, and remove what an earlier process left unfinished."""
        self._store.prepare()
        self._reports.prepare()

    def kinds(self) -> tuple[Kind[Any, Any], ...]:
        """List the operations of this capability."""
        return (
            Kind(
                BUILD,
                BuildRequest,
                BuildResult,
                self._build,
                check=self._check,
                # The checkpoint has what is known already.
                resumable=True,
                resources=lambda params: self._reads(lambda: self._build_place(params)),
                rate="read",
            ),
            Kind(
                VERIFY,
                VerifyParams,
                VerifyResult,
                self._verify,
                check=self._check,
                # From the start: what was read a while ago proves nothing about now.
                resumable=True,
                resources=lambda params: self._reads(lambda: self._verify_place(params)),
                rate="read",
            ),
            Kind(
                COMPARE,
                CompareRequest,
                CompareResult,
                self._compare,
                check=self._check,
                resumable=True,
                resources=self._pair,
                rate="none",
            ),
        )

    def _check(self, params: Params) -> None:
        """Check before an operation is started whether it can be.

        Raises `RequestError` if the request names what is not there or not allowed, `OSError` if
        the volume has too little free space for records.
        """
        space.check(self._state_dir)
        match params:
            case BuildRequest():
                self._build_place(params)
                engine_limit(params.pressure)
                check_patterns(params.include, params.exclude)
            case VerifyParams():
                self._verify_place(params)
                engine_limit(params.pressure)
            case CompareRequest():
                left = self._store.get(params.left, field="left")
                right = self._store.get(params.right, field="right")
                if left.algorithm != right.algorithm:
                    raise RequestError(
                        Slug.INVALID_REQUEST,
                        f"The left manifest has digests of {left.algorithm}, the right one of "
                        f"{right.algorithm}; build both with one algorithm to compare them.",
                        "right",
                    )

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what counts verifications."""
        from holdfast.manifests.metrics import VerificationsCollector  # noqa: PLC0415 - for the daemon alone

        del operations
        return (VerificationsCollector(self.verified),)

    def verified(self) -> Mapping[tuple[str, bool], int]:
        """Count the verifications since the process began, by root and whether all was well."""
        with self._lock:
            return dict(self._verified)

    def manifests(self, progress: Progress | None = None) -> ManifestList:
        """List the stored manifests, newest first. Raises `CancelledError`."""
        manifests, damaged = self._store.all(progress)
        fields = set(Manifest.model_fields)
        return ManifestList(
            manifests=[Manifest(**each.model_dump(include=fields)) for each in manifests],
            damaged=damaged,
        )

    def manifest(self, manifest_id: str, progress: Progress | None = None) -> ManifestDetails:
        """Describe a manifest by its id or `latest`.

        Raises `RequestError` if there is none, `CancelledError`.
        """
        return self._store.get(manifest_id, progress=progress)

    def delete(self, manifest_id: str) -> str:
        """Remove a manifest; return its id. Raises `RequestError` if it is not there or is read."""
        return self._store.delete(manifest_id)

    @contextmanager
    def content(self, manifest_id: str) -> Iterator[Path]:
        """Yield the record file of a manifest (or `latest`), which stays as long as this context.

        Raises `RequestError` if there is no such manifest.
        """
        with self._store.use(self._store.get(manifest_id).id) as record:
            yield record

    def conversion(self, manifest_id: str, form: Text) -> Write:
        """Return what writes a manifest (or `latest`) as text.

        Raises `RequestError` if there is no such manifest, or if it cannot be trusted.
        """
        record_id = self._store.get(manifest_id).id

        def write(output: int, progress: Progress) -> None:
            with self._store.use(record_id) as record:
                self._export(record, form, output, progress)

        return write

    def report(self, operation_id: str) -> Path:
        """Return the record file of a verification's or comparison's report.

        Raises `RequestError` if there is none.
        """
        return self._reports.find(operation_id)

    def report_conversion(self, operation_id: str) -> Write:
        """Return what writes a report as JSON lines. Raises `RequestError` if there is none."""
        record = self._reports.find(operation_id)
        return lambda output, progress: self._export(record, "jsonl", output, progress)

    def receive(self, manifest_id: str | None = None) -> Upload[ManifestDetails]:
        """Begin to receive a manifest made elsewhere.

        Raises `RequestError` if the id it is to have is malformed or taken.
        """
        if manifest_id is not None:
            self._store.check_chosen(manifest_id)
        return Upload(self._store, max_bytes=self._max_record_bytes)

    # Operations, each in a thread of its own.

    def _build(self, context: Context[BuildRequest]) -> BuildResult:
        params = context.params
        place = self._build_place(params)
        make_directory(self._store.directory)
        journal = self._store.journal(context.id)
        # A run that was killed between its last two steps has left a manifest already.
        destination = self._store.destination(context.id, replace=context.resumed)
        previous = self._store.made_here()
        if params.full:
            previous = [path for path in previous if path == destination]
        try:
            outcome = call(
                BuildManifest(
                    place=place,
                    exclude=self._exclude,
                    include_patterns=params.include,
                    exclude_patterns=params.exclude,
                    algorithm=params.algorithm,
                    destination=destination,
                    journal=journal,
                    previous=previous,
                    max_bytes=self._store.max_bytes,
                    header=provenance(context.id),
                    bytes_per_second=params.bytes_per_second,
                    pressure=engine_limit(params.pressure),
                    reader=self._reader,
                ),
                context.progress,
            )
        except BaseException:
            if not context.will_resume():
                journal.unlink(missing_ok=True)
            raise
        self._store.retain(context.id)
        self._note(place, outcome)
        return BuildResult(
            manifest=context.id,
            root=str(place.root),
            path=place.path,
            algorithm=params.algorithm,
            **outcome,
        )

    def _verify(self, context: Context[VerifyParams]) -> VerifyResult:
        params = context.params
        # One that resumes after a crash must not take a newer manifest for its own.
        before = context.id if context.resumed else None
        manifest = self._store.get(params.manifest, before=before)
        place = self._verify_place(params, manifest)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        with self._store.use(manifest.id) as record:
            outcome = call(
                VerifyManifest(
                    record=record,
                    max_bytes=self._store.max_bytes,
                    place=place,
                    exclude=self._exclude,
                    sample_percent=params.sample_percent,
                    seed=seed,
                    report=self._reports.destination(context.id),
                    header=provenance(context.id) | {"manifest": manifest.id},
                    bytes_per_second=params.bytes_per_second,
                    pressure=engine_limit(params.pressure),
                    reader=self._reader,
                ),
                context.progress,
            )
        with self._lock:
            self._verified[str(place.root), outcome["ok"]] += 1
        self._note(place, outcome)
        return VerifyResult(
            manifest=manifest.id,
            path=str(place.root / place.path),
            algorithm=manifest.algorithm,
            **outcome,
        )

    def _compare(self, context: Context[CompareRequest]) -> CompareResult:
        params = context.params
        before = context.id if context.resumed else None
        left = self._store.get(params.left, field="left", before=before)
        right = self._store.get(params.right, field="right", before=before)
        with self._store.use(left.id) as left_record, self._store.use(right.id) as right_record:
            outcome = call(
                CompareManifests(
                    left=left_record,
                    right=right_record,
                    max_bytes=self._store.max_bytes,
                    report=self._reports.destination(context.id),
                    header=provenance(context.id) | {"left": left.id, "right": right.id},
                    identical=params.identical,
                ),
                context.progress,
            )
        return CompareResult(left=left.id, right=right.id, **outcome)

    def _note(self, place: RootPath, outcome: Mapping[str, Any]) -> None:
        """Keep for the metrics what a call over a whole root left out."""
        if not place.path:
            counts = {reason: left["count"] for reason, left in outcome["left_out"].items()}
            self._left_out.note(str(place.root), "manifests", counts)

    # What requests mean.

    def _build_place(self, params: BuildRequest) -> RootPath:
        if params.path is not None:
            place = self._places.find(params.path, "path")
            if params.root is not None and self._places.root(params.root, "root") != RootPath(
                place.root
            ):
                raise RequestError(
                    Slug.OUTSIDE_ROOTS, f"{params.path} is not in root {params.root}.", "path"
                )
            return _directory(place, "path")
        if params.root is not None:
            return self._places.root(params.root, "root")
        if len(self._places.roots) > 1:
            names = ", ".join(map(str, self._places.roots))
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"There are several roots ({names}) and a manifest is of one; name it with `root`.",
                "root",
            )
        return self._places.root(str(self._places.roots[0]), "root")

    def _verify_place(
        self, params: VerifyParams, manifest: ManifestDetails | None = None
    ) -> RootPath:
        """Where the files are that a manifest is to be true of."""
        if manifest is None:
            manifest = self._store.get(params.manifest)
        if params.path is not None:
            return _directory(self._places.find(params.path, "path"), "path")
        base = str(Path(manifest.root) / manifest.path)
        try:
            return _directory(self._places.find(base, "path"), "path")
        except RequestError as error:
            raise RequestError(
                error.slug,
                f"{error.detail} Manifest {manifest.id} was made there; set `path` to what to "
                "verify.",
                "path",
            ) from None

    @staticmethod
    def _reads(place: Any) -> frozenset[str]:
        """Two that read the same device at the same time would only slow each other down."""
        try:
            return frozenset({f"manifest.read:{place().root}"})
        except RequestError:
            # It cannot be run, and reports why when it is.
            return frozenset()

    def _pair(self, params: CompareRequest) -> frozenset[str]:
        """One comparison of a pair at a time: another would find the same."""
        try:
            ids = {
                self._store.get(params.left, field="left").id,
                self._store.get(params.right, field="right").id,
            }
        except RequestError:
            # It cannot be run, and reports why when it is.
            return frozenset()
        return frozenset({f"{COMPARE}:{':'.join(sorted(ids))}"})

    def _export(self, record: Path, form: Text, output: int, progress: Progress) -> None:
        request = ExportManifest(
            source=record, output=output, max_bytes=self._store.max_bytes, form=form
        )
        call(request, progress)


def _directory(place: RootPath, field: str) -> RootPath:
    whole = place.root / place.path
    if whole.is_dir():
        return place
    raise RequestError(
        Slug.INVALID_REQUEST,
        f"{whole} is a file, and a manifest is of a directory; name the one it is in.",
        field,
    )
