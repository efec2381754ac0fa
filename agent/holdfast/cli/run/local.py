"""`--local`: the backend of commands that do the work themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from holdfast._engine import EngineError
from holdfast.cli.run.backend import Document
from holdfast.cli.run.local_run import LocalRun
from holdfast.cli.terminal.errors import CliError, UsageError
from holdfast.config import Settings
from holdfast.config.statedir import locate_state_dir
from holdfast.manifests.assembly import manifests_of
from holdfast.manifests.service import Manifests
from holdfast.operations.model import OperationFailed, RequestError
from holdfast.operations.outcome import problem_of
from holdfast.pagecache.assembly import pagecache_of
from holdfast.pagecache.residency import GroupBy
from holdfast.pagecache.service import PageCache
from holdfast.records.conversions import Write, converted
from holdfast.storage import space
from holdfast.text.wording import sentence
from holdfast.tuning.assembly import tuning_of
from holdfast.tuning.models import PlanRequest
from holdfast.tuning.service import Tuning

_PIECE_BYTES = 1 << 20


class LocalRecords:
    """The records that one capability keeps in the state directory."""

    def __init__(
        self,
        service: PageCache | Manifests,
        prepare: Callable[[], None],
        *,
        every: Callable[[], BaseModel],
        details: Callable[[str], BaseModel],
        conversion: Callable[[str, Any], Write],
    ) -> None:
        self._service = service
        self._prepare = prepare
        self._every = every
        self._details = details
        self._conversion = conversion

    def list(self) -> Document:
        """Return the list of the stored records, newest first."""
        with _refusals():
            return _document(self._every())

    def show(self, record: str) -> Document:
        """Describe a record."""
        with _refusals():
            return _document(self._details(record))

    def delete(self, record: str) -> None:
        """Delete a record."""
        with _refusals():
            self._service.delete(record)

    def content(self, record: str, form: str) -> Iterator[bytes]:
        """Yield the bytes of a record in one of its file formats."""
        with _refusals():
            if form != "native":
                yield from converted(self._conversion(record, form))
                return
            with self._service.content(record) as path, path.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece

    def store(self, chunks: Iterator[bytes]) -> Document:
        """Store a record made elsewhere, once it is known to be whole."""
        with _refusals():
            self._prepare()
            upload = self._service.receive()
            try:
                for chunk in chunks:
                    upload.write(chunk)
                return _document(upload.finish(None))
            except BaseException:
                upload.abort()
                raise


class LocalProfiles:
    """Kernel settings of this machine."""

    def __init__(self, tuning: Tuning, start: Callable[[str, Mapping[str, Any]], LocalRun]) -> None:
        self._tuning = tuning
        self._start = start

    def state(self) -> Document:
        """Describe what is applied and what has drifted from it."""
        with _refusals():
            self._tuning.prepare()
            return _document(self._tuning.state())

    def plan(self, body: Mapping[str, Any]) -> Document:
        """Describe what applying a profile would change."""
        with _refusals():
            self._tuning.prepare()
            return _document(self._tuning.plan(PlanRequest.model_validate(body)))

    def list(self) -> Document:
        """Return the list of the profiles."""
        with _refusals():
            return _document(self._tuning.profiles())

    def show(self, name: str) -> Document:
        """Describe a profile."""
        with _refusals():
            return _document(self._tuning.profile(name))

    def change(self, kind: str, body: Mapping[str, Any]) -> LocalRun:
        """Start a change."""
        return self._start(kind, body)


class LocalBackend:
    """The capabilities of this machine, without a daemon."""

    def __init__(self, settings: Settings) -> None:
        space.keep_free(settings.data.free_space_floor)
        state_dir, degraded = locate_state_dir(settings)
        if degraded is not None:
            raise CliError(degraded.rstrip(".").replace("restart holdfast", "try again"))
        self._state_dir = state_dir
        self._pagecache = pagecache_of(settings, state_dir)
        self._manifests = manifests_of(settings, state_dir)
        self._tuning = tuning_of(settings, state_dir)
        self.dumps = LocalRecords(
            self._pagecache,
            self._prepare,
            every=self._pagecache.dumps,
            details=self._pagecache.dump,
            conversion=lambda dump, _: self._pagecache.conversion(dump),
        )
        self.manifests = LocalRecords(
            self._manifests,
            self._prepare,
            every=self._manifests.manifests,
            details=self._manifests.manifest,
            conversion=self._manifests.conversion,
        )
        self.profiles = LocalProfiles(self._tuning, self.start)

    def residency(
        self, *, path: str | None, depth: int, top: int, by: GroupBy | None = None
    ) -> Document:
        """Describe what is in memory."""
        with _refusals():
            return _document(self._pagecache.state(path=path, depth=depth, top=top, by=by))

    def report(self, operation: str) -> Iterator[bytes]:
        """Yield the lines of a report."""
        with _refusals():
            rest = b""
            for piece in converted(self._manifests.report_conversion(operation)):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines

    def running(self, _kind: str) -> None:
        """Return None: there are no operations of others here."""
        return

    def start(self, kind: str, body: Mapping[str, Any]) -> LocalRun:
        """Check parameters and start the work. Raises `CliError` for what a daemon would refuse."""
        kinds = (*self._pagecache.kinds(), *self._manifests.kinds(), *self._tuning.kinds())
        found = next(each for each in kinds if each.name == kind)
        with _refusals():
            self._prepare()
            params: Any = found.params.model_validate(body)
            found.check(params)
        return LocalRun(found, params)

    def _prepare(self) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pagecache.prepare()
        self._manifests.prepare()
        self._tuning.prepare()


def _document(model: BaseModel) -> Document:
    return model.model_dump(mode="json")


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the capability raises into one line for a person."""
    try:
        yield
    except ValidationError as error:
        raise UsageError("; ".join(map(sentence, error.errors()))) from error
    except (RequestError, OperationFailed, EngineError, OSError, ValueError) as error:
        raise CliError(problem_of(error, "").detail.rstrip(".")) from error
