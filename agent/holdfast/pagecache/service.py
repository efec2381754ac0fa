"""The page-cache capability: what it can do, in terms of the engine's calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from holdfast import _engine
from holdfast._engine import Progress
from holdfast.capability import Capability
from holdfast.engine.requests import call
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import RequestError, Slug
from holdfast.pagecache.dumps import DumpStore, DumpUpload
from holdfast.pagecache.engine_requests import (
    DumpPages,
    EvictPages,
    ExportHappycache,
    LoadPages,
    MeasureResidency,
)
from holdfast.pagecache.holders import holders
from holdfast.pagecache.models import (
    Dump,
    DumpList,
    DumpRequest,
    DumpResult,
    EvictRequest,
    EvictResult,
    LoadRequest,
    LoadResult,
    UnusedDump,
)
from holdfast.pagecache.places import Places, inspection_error, limits
from holdfast.pagecache.residency import GroupBy, PageCacheState, ResidencyReport, UnavailableRoot
from holdfast.records.conversions import Write
from holdfast.records.provenance import provenance
from holdfast.storage import space
from holdfast.storage.atomic_files import make_directory
from holdfast.storage.left_out import LeftOut
from holdfast.storage.roots import RootPath, Roots

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

_DUMPS_DECIDING = 6
"""With the one that is loaded: more show no more (docs/benchmarks.md)."""

DUMP, LOAD, EVICT = "pagecache.dump", "pagecache.load", "pagecache.evict"

Params = DumpRequest | LoadRequest | EvictRequest
ResultT = TypeVar("ResultT", bound=BaseModel)


class PageCache(Capability):
    """Shows, dumps, loads and evicts the page cache of the files below the roots."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        dumps_kept: int,
        reserve_bytes: int,
        max_record_bytes: int,
        left_out: LeftOut | None = None,
    ) -> None:
        self._left_out = left_out or LeftOut()
        self._roots = Roots(roots, state_dir)
        self._places = Places(self._roots)
        self._exclude = [state_dir]
        self._state_dir = state_dir
        self._reserve_bytes = reserve_bytes
        self._max_record_bytes = max_record_bytes
        self._store = DumpStore(
            state_dir / "dumps", kept=dumps_kept, max_record_bytes=max_record_bytes
        )

    def prepare(self) -> None:
        """Make the directory of dumps, and remove what an earlier process left unfinished."""
        self._store.prepare()

    def kinds(self) -> tuple[Kind[Any, Any], ...]:
        """List the operations of this capability."""
        return (
            Kind(
                DUMP,
                DumpRequest,
                DumpResult,
                self._dump,
                check=self._check,
                resources=lambda _: frozenset({DUMP}),
                rate="none",
            ),
            Kind(
                LOAD,
                LoadRequest,
                LoadResult,
                self._load,
                check=self._check,
                # What is in memory already is skipped, so a second run resumes the first.
                resumable=True,
                resources=lambda _: frozenset({LOAD}),
                # A datastore waits for it, and the longer, the more it reads from the disk itself.
                urgent=True,
                rate="read",
            ),
            Kind(
                EVICT,
                EvictRequest,
                EvictResult,
                self._evict,
                check=self._check,
                # A load would read again what is being dropped, or the other way round.
                resources=lambda _: frozenset({EVICT, LOAD}),
                rate="none",
            ),
        )

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what shows how much of each root is resident."""
        from holdfast.pagecache.metrics import ResidencyCollector  # noqa: PLC0415 - for the daemon alone

        return (ResidencyCollector(operations, self._resident_bytes),)

    def _resident_bytes(self) -> Mapping[str, int]:
        reports = self.state(path=None, depth=0, top=0).reports
        return {report.root: report.total.resident for report in reports}

    def _check(self, params: Params) -> None:
        """Check before an operation is started whether it can be.

        Raises `RequestError` if the request names what is not there or not allowed.
        """
        match params:
            case DumpRequest():
                space.check(self._state_dir)
                self._places.to_dump(params)
            case LoadRequest():
                self._places.to_load(params, self._store.get(params.dump))
            case EvictRequest():
                self._places.to_evict(params)

    def state(
        self,
        *,
        path: str | None,
        depth: int,
        top: int,
        by: GroupBy | None = None,
        progress: Progress | None = None,
    ) -> PageCacheState:
        """Return what is resident now; takes seconds for millions of files.

        `depth` is how many levels of directories are listed one by one, `top` how many files,
        directories and groups at most. Raises `RequestError` for a path that is not in a root.
        """
        places, unavailable = self._places.shown(path)
        reports = []
        for place in places:
            try:
                reports.append(self._residency(place, depth, top, by, progress or Progress()))
            except (OSError, ValueError) as error:
                if path is not None:
                    raise inspection_error(path, error) from None
                unavailable.append(UnavailableRoot(root=str(place.root), detail=str(error)))
        return PageCacheState(
            page_size=_engine.page_size(), reports=reports, unavailable=unavailable
        )

    def dumps(self, progress: Progress | None = None) -> DumpList:
        """List the stored dumps, newest first. Raises `CancelledError`."""
        dumps, damaged = self._store.all(progress)
        return DumpList(dumps=dumps, damaged=damaged)

    def dump(self, dump_id: str, progress: Progress | None = None) -> Dump:
        """Describe a dump by its id or `latest`.

        Raises `RequestError` if there is none, `CancelledError`.
        """
        return self._store.get(dump_id, progress=progress)

    def delete(self, dump_id: str) -> str:
        """Remove a dump; return its id. Raises `RequestError` if there is none or it is read."""
        return self._store.delete(dump_id)

    @contextmanager
    def content(self, dump_id: str) -> Iterator[Path]:
        """Yield the record file of a dump (or `latest`), which stays as long as this context.

        Raises `RequestError` if there is no such dump.
        """
        with self._store.use(self._store.get(dump_id).id) as record:
            yield record

    def conversion(self, dump_id: str) -> Write:
        """Return what writes a dump (or `latest`) in happycache's format.

        Raises `RequestError` if there is no such dump, if it cannot be trusted, or if the format
        cannot express it.
        """
        dump = self._store.get(dump_id)
        pages, allowed = dump.bytes // dump.page_size, self._store.max_bytes
        # Each page has a line.
        if 2 * pages > allowed:
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"Dump {dump.id} has {pages} pages, which in happycache's format are more than the "
                f"{allowed} bytes that are allowed; take the record file itself.",
                "format",
            )

        def write(output: int, progress: Progress) -> None:
            with self._store.use(dump.id) as record:
                request = ExportHappycache(source=record, output=output, max_bytes=allowed)
                try:
                    call(request, progress)
                except ValueError as error:
                    raise RequestError(Slug.INVALID_REQUEST, f"{error}.", "format") from None

        return write

    def receive(self, dump_id: str | None = None) -> DumpUpload:
        """Begin to receive a dump made elsewhere, in holdfast's format or in happycache's.

        Raises `RequestError` if the id it is to have is malformed or taken.
        """
        if dump_id is not None:
            self._store.check_chosen(dump_id)
        return DumpUpload(self._store, max_bytes=self._max_record_bytes, root=self._roots.roots[0])

    # One directory by itself, for a transfer: names are relative to it, wherever it is.

    def dump_tree(self, directory: Path, destination: Path) -> None:
        """Record what is resident of a directory. Raises `OSError`, `ValueError`, `EngineError`."""
        request = DumpPages(
            places=[RootPath(directory)],
            exclude=self._exclude,
            destination=destination,
            header=provenance(new_id()),
            on_denied="skip",
        )
        call(request, Progress())

    def load_tree(self, record: Path, directory: Path, progress: Progress) -> dict[str, Any]:
        """Load what a record of `dump_tree`, from another node, names of a directory.

        Raises `RecordError` if it cannot be trusted, `OSError`, `ValueError`, `CancelledError`.
        """
        request = LoadPages(
            record=record,
            max_bytes=self._store.max_bytes,
            roots=[directory],
            policy=LoadRequest().policy,
            budget_bytes=None,
            reserve_bytes=self._reserve_bytes,
            bytes_per_second=None,
            report_all=False,
        )
        return call(request, progress)

    # Operations, each in a thread of its own.

    def _dump(self, context: Context[DumpRequest]) -> DumpResult:
        params = context.params
        places = self._places.to_dump(params)
        make_directory(self._store.directory)
        outcome = call(
            DumpPages(
                places=places,
                exclude=self._exclude,
                destination=self._store.destination(context.id),
                header=provenance(context.id) | limits(places),
                on_denied=params.on_denied,
            ),
            context.progress,
        )
        self._store.retain(context.id)
        self._note(places, outcome)
        return DumpResult(
            dump=context.id,
            roots=[str(place.root) for place in places],
            **outcome,
        )

    def _load(self, context: Context[LoadRequest]) -> LoadResult:
        params = context.params
        # A load that resumes after a crash must not take a newer dump for its own.
        dump = self._store.get(params.dump, before=context.id if context.resumed else None)
        with ExitStack() as stack:
            record = stack.enter_context(self._store.use(dump.id))
            earlier = self._earlier(dump, params, stack)
            outcome = call(
                LoadPages(
                    record=record,
                    max_bytes=self._store.max_bytes,
                    roots=self._places.to_load(params, dump),
                    policy=params.policy,
                    budget_bytes=params.budget_bytes,
                    reserve_bytes=(
                        self._reserve_bytes
                        if params.reserve_bytes is None
                        else params.reserve_bytes
                    ),
                    bytes_per_second=params.bytes_per_second,
                    report_all=params.report == "all",
                    earlier=list(earlier.values()),
                    order=params.order,
                    yield_at=params.yield_at,
                ),
                context.progress,
            )
        names = list(earlier)
        left_out = [
            UnusedDump(dump=names[each["index"]], detail=each["detail"])
            for each in outcome.pop("dumps_left_out")
        ]
        decided = [names[index] for index in outcome.pop("dumps")]
        return LoadResult(
            dump=dump.id,
            dumps=[dump.id, *decided] if decided else [],
            dumps_left_out=left_out,
            **outcome,
        )

    def _earlier(self, dump: Dump, params: LoadRequest, stack: ExitStack) -> dict[str, Path]:
        """Return the records that show which pages of a dump are needed, and keep them."""
        if params.order == "share":
            return {}
        earlier = {}
        for each in self._store.before(dump, _DUMPS_DECIDING - 1):
            try:
                earlier[each] = stack.enter_context(self._store.use(each))
            except RequestError:
                continue  # it was deleted meanwhile
        return earlier

    def _evict(self, context: Context[EvictRequest]) -> EvictResult:
        places = self._places.to_evict(context.params)
        outcome = call(
            EvictPages(places=places, exclude=self._exclude, sync=context.params.sync),
            context.progress,
        )
        self._note(places, outcome)
        files = outcome["retained_files"]
        known = holders((file["device"], file["ino"]) for file in files)
        for file in files:
            reasons = [name for name in ("dirty", "writeback") if file[name]]
            reasons += known.get((file.pop("device"), file.pop("ino")), [])
            file["reasons"] = reasons or ["in use, by whom cannot be seen"]
        return EvictResult(**outcome)

    def _note(self, places: Sequence[RootPath], outcome: dict[str, Any]) -> None:
        """Keep for the metrics what a call over whole roots left out."""
        for place, counts in zip(places, outcome.pop("left_out_of"), strict=True):
            if not place.path:
                self._left_out.note(str(place.root), "pagecache", counts)

    def _residency(
        self, place: RootPath, depth: int, top: int, by: GroupBy | None, progress: Progress
    ) -> ResidencyReport:
        request = MeasureResidency(place=place, exclude=self._exclude, depth=depth, top=top, by=by)
        outcome = call(request, progress)
        self._note([place], outcome)
        whole = place.root / place.path
        kind = "root" if not place.path else "directory" if whole.is_dir() else "file"
        total = outcome.pop("total") | {"kind": kind, "path": str(whole)}
        for name, each in (("directories", "directory"), ("files", "file")):
            outcome[name] = [item | {"kind": each} for item in outcome[name]]
        return ResidencyReport(root=str(place.root), total=total, **outcome)
