"""`--local`: the work of a capability done in this process, shown like an operation's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast import space
from holdfast._engine import CancelledError, EngineError, Progress
from holdfast.capabilities import capabilities_of
from holdfast.cli.run.follow import Terminated
from holdfast.cli.run.runs import LOCAL_ACTOR
from holdfast.cli.terminal.errors import CliError, UsageError
from holdfast.config import Settings
from holdfast.config.statedir import locate_state_dir
from holdfast.manifests.models import ManifestDetails, ManifestList
from holdfast.manifests.service import Form
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import (
    Operation,
    OperationFailed,
    Problem,
    ProgressReport,
    RequestError,
    State,
    now,
)
from holdfast.operations.outcome import problem_of
from holdfast.operations.progress import Meter
from holdfast.operations.results import outcome_of
from holdfast.pagecache.models import Dump, DumpList, PageCacheState
from holdfast.records.conversions import converted
from holdfast.records.store import Stored
from holdfast.records.uploads import Upload
from holdfast.tuning.models import Plan, PlanRequest, ProfileDetails, ProfileList, TuningState
from holdfast.wording import sentence

R = TypeVar("R", bound=Stored)

_TICK_SECONDS = 0.25
_CHUNK = 1 << 20


class LocalWork:
    """The capabilities of this machine, without a daemon."""

    def __init__(self, settings: Settings) -> None:
        space.keep_free(settings.data.free_space_floor)
        state_dir, degraded = locate_state_dir(settings)
        if degraded is not None:
            raise CliError(degraded.rstrip(".").replace("restart holdfast", "try again"))
        self._state_dir = state_dir
        made = capabilities_of(settings, state_dir)
        self.pagecache, self.manifests, self.tuning = made.pagecache, made.manifests, made.tuning

    def state(self, *, path: str | None, depth: int, top: int) -> PageCacheState:
        """Look at what is in memory."""
        with _refusals():
            return self.pagecache.state(path=path, depth=depth, top=top)

    def dumps(self) -> DumpList:
        """List the stored dumps, newest first."""
        with _refusals():
            return self.pagecache.dumps()

    def delete(self, dump: str) -> None:
        """Delete a stored dump."""
        with _refusals():
            self.pagecache.delete(dump)

    def content(self, dump: str, form: Literal["native", "happycache"]) -> Iterator[bytes]:
        """Yield the bytes of a dump's record file in one of its formats."""
        with _refusals():
            if form == "happycache":
                yield from converted(self.pagecache.conversion(dump))
                return
            with self.pagecache.content(dump) as path, path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk

    def receive(self, chunks: Iterator[bytes]) -> Dump:
        """Store a record file made elsewhere, once it is found to be whole."""
        with _refusals():
            self._prepare()
            return _received(self.pagecache.receive(), chunks)

    def manifest_list(self) -> ManifestList:
        """List the stored manifests, newest first."""
        with _refusals():
            return self.manifests.manifests()

    def manifest(self, manifest: str) -> ManifestDetails:
        """Describe a stored manifest."""
        with _refusals():
            return self.manifests.manifest(manifest)

    def delete_manifest(self, manifest: str) -> None:
        """Delete a stored manifest."""
        with _refusals():
            self.manifests.delete(manifest)

    def manifest_content(self, manifest: str, form: Form) -> Iterator[bytes]:
        """Yield the bytes of a manifest in one of its forms."""
        with _refusals():
            if form != "native":
                yield from converted(self.manifests.conversion(manifest, form))
                return
            with self.manifests.content(manifest) as path, path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk

    def report(self, operation: str) -> Iterator[bytes]:
        """Yield the lines of the report of a verification or comparison."""
        with _refusals():
            left = b""
            for piece in converted(self.manifests.report_conversion(operation)):
                *lines, left = (left + piece).split(b"\n")
                yield from (line + b"\n" for line in lines)

    def receive_manifest(self, chunks: Iterator[bytes]) -> ManifestDetails:
        """Store a manifest made elsewhere, once it is found to be whole."""
        with _refusals():
            self._prepare()
            return _received(self.manifests.receive(), chunks)

    def tuning_state(self) -> TuningState:
        """Say what is in force and what has drifted."""
        with _refusals():
            self.tuning.prepare()
            return self.tuning.state()

    def tuning_plan(self, body: Mapping[str, Any]) -> Plan:
        """Say what applying a profile would do."""
        with _refusals():
            self.tuning.prepare()
            return self.tuning.plan(PlanRequest.model_validate(body))

    def profiles(self) -> ProfileList:
        """List the profiles of this machine."""
        with _refusals():
            return self.tuning.profiles()

    def profile(self, name: str) -> ProfileDetails:
        """Describe a profile."""
        with _refusals():
            return self.tuning.profile(name)

    def start(self, kind_name: str, body: Mapping[str, Any]) -> LocalRun:
        """Check parameters and start the work. Raises `CliError` for what a daemon would refuse."""
        kinds = (*self.pagecache.kinds(), *self.manifests.kinds(), *self.tuning.kinds())
        kind = next(kind for kind in kinds if kind.name == kind_name)
        with _refusals():
            self._prepare()
            params: Any = kind.params.model_validate(body)
            kind.check(params)
        return LocalRun(kind, params)

    def _prepare(self) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pagecache.prepare()
        self.manifests.prepare()
        self.tuning.prepare()


class LocalRun:
    """One run of a kind in a thread of this process."""

    can_leave = False

    def __init__(self, kind: Kind[Any, Any], params: BaseModel) -> None:
        self.id = new_id()
        self._progress = Progress()
        self._meter = Meter(self._progress, rate=kind.rate)
        self._done = threading.Event()
        self._kind = kind
        started = now()
        self._operation = Operation(
            id=self.id,
            kind=kind.name,
            state=State.RUNNING,
            actor=LOCAL_ACTOR,
            created_at=started,
            started_at=started,
            params=params.model_dump(mode="json"),
        )
        self._thread = threading.Thread(
            target=self._run, args=(params,), name=kind.name, daemon=True
        )
        # A unit that is stopped sends SIGTERM: end as cleanly as at a Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
        self._thread.start()

    def updates(self) -> Iterator[dict[str, Any]]:
        """Yield how far it is a few times a second, and at last the outcome."""
        while not self._done.wait(_TICK_SECONDS):
            yield self._dump(self._meter.sample())
        self._thread.join()
        yield self._dump(self._meter.final())

    def cancel(self) -> None:
        """Ask the engine to stop."""
        self._progress.cancel()

    def _dump(self, report: ProgressReport) -> dict[str, Any]:
        return self._operation.model_copy(update={"progress": report}).model_dump(mode="json")

    def _run(self, params: BaseModel) -> None:
        outcome: dict[str, Any]
        try:
            result = self._kind.run(Context(id=self.id, params=params, progress=self._progress))
            outcome = {
                "state": State.SUCCEEDED,
                "outcome": outcome_of(result),
                "result": result.model_dump(mode="json"),
            }
        except CancelledError:
            outcome = {"state": State.CANCELLED}
        except Exception as error:
            problem: Problem = problem_of(error, self.id)
            outcome = {"state": State.FAILED, "error": problem}
        self._operation = self._operation.model_copy(update={**outcome, "finished_at": now()})
        self._done.set()


def _received(upload: Upload[R], chunks: Iterator[bytes]) -> R:
    try:
        for chunk in chunks:
            upload.write(chunk)
        return upload.finish(None)
    except BaseException:
        upload.abort()
        raise


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the capability raises into the one line a person reads."""
    try:
        yield
    except ValidationError as error:
        raise UsageError("; ".join(map(sentence, error.errors()))) from error
    except (RequestError, OperationFailed, EngineError, OSError, ValueError) as error:
        raise CliError(problem_of(error, "").detail.rstrip(".")) from error


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
