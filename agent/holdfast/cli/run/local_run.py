"""A run of an operation in this process, for commands that need no daemon."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pydantic import BaseModel

from holdfast._engine import CancelledError, Progress
from holdfast.cli.run.follow import Terminated
from holdfast.cli.run.runs import LOCAL_ACTOR
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import Operation, Problem, ProgressReport, State, now
from holdfast.operations.outcome import problem_of
from holdfast.operations.progress import Meter
from holdfast.operations.results import outcome_of

_TICK_SECONDS = 0.25


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


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
