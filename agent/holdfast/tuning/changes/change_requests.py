"""Has settings changed by the helper or this process, and finishes what was cut short."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from holdfast.operations.kinds import Context
from holdfast.operations.model import OperationFailed, Problem, Slug
from holdfast.privileged import Refused
from holdfast.tuning.changes.ledger import Changes
from holdfast.tuning.changes.rebase import renamed
from holdfast.tuning.changes.requests import (
    FailedKnob,
    TuneChange,
    TuneEnforce,
    TuneRecover,
    TuneReport,
    TuneRequest,
    TuneRollback,
)
from holdfast.tuning.changes.store import InForce, Store, StoredKnob
from holdfast.tuning.changes.transaction import ChangeFailed, Failure, Panel
from holdfast.tuning.events import Events
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.problems import problem_of

_CUT_SHORT = (
    "A change of settings was cut short. It is finished or reverted at the next start, apply, "
    "rollback or check for drift."
)
_RETRY_SECONDS = 60.0
"""How often to retry what could not be reverted, besides at each occasion."""
_NAMED = {"subsystem", "target", "name", "identity"}


class ChangeRequests:
    """Requests for changes, to the helper or the ledger. Call with the mutex of `Tuning` held."""

    def __init__(self, changes: Changes, store: Store, panel: Panel, events: Events) -> None:
        self._changes = changes
        self._store = store
        self._panel = panel
        self._events = events
        self._tried = 0.0
        self.problem: str | None = None
        """Why settings cannot be changed now, as a sentence."""

    def change(self, request: TuneChange | TuneRollback) -> TuneReport:
        """Have settings changed. Raises `OperationFailed` and `OSError`."""
        try:
            return self.ask(request)
        except ChangeFailed as error:
            problem = problem_of(error)
            self._events.add("failed", problem.detail)
            raise OperationFailed(problem) from error
        except OSError:
            # The helper may have ended in the middle: then the journal shows it.
            if self._store.pending() is not None:
                self.problem = _CUT_SHORT
            raise

    def ask(self, request: TuneRequest) -> TuneReport:
        """Have it done. Raises `ChangeFailed`, `OperationFailed` and `OSError`."""
        try:
            report = self._changes.tune(request)
        except Refused as error:
            raise OperationFailed(Problem.of(Slug.UNAVAILABLE, str(error))) from error
        if report.conflict is not None:
            raise OperationFailed(Problem.of(Slug.CONFLICT, report.conflict))
        if report.failure is not None:
            raise ChangeFailed(
                _failure(report.failure), knobs_of(report.reverted), _failures(report.left)
            )
        return report

    def enforce(self, settings: Sequence[InForce]) -> Sequence[Failure]:
        """Write settings back that have drifted; return those that could not be."""
        knobs = [StoredKnob(**setting.model_dump(include=_NAMED)) for setting in settings]
        return _failures(self.ask(TuneEnforce(knobs=knobs)).left)

    def follow(self, request: TuneChange) -> None:
        """Put settings in force on devices that appeared. Raises as `ask`."""
        self.ask(request)

    def finish_pending(self, *, patient: bool = False) -> None:
        """Finish what a crash left, and retry what could not be reverted.

        With `patient` the latter only once in a while.
        """
        state = self._store.state()
        due = not patient or time.monotonic() - self._tried >= _RETRY_SECONDS
        wanting = renamed(state, self._panel) or (state.left and due)
        if self._store.pending() is None and not wanting:
            self.problem = None
            return
        self._tried = time.monotonic()
        report = self.ask(TuneRecover())
        self.problem = None
        if report.recovered is not None:
            knobs = report.recovered.knobs
            what = "finished" if report.recovered.finished else "reverted"
            self._events.add(
                "recovered",
                f"a change of {len(knobs)} settings that the end of a process cut short was {what}",
                settings=[str(knob.knob) for knob in knobs],
            )
        if report.left:
            failed = "; ".join(map(str, _failures(report.left)))
            self._events.add("failed", f"not everything could be reverted: {failed}")
        if report.settled:
            names = [str(setting.knob) for setting in report.settled]
            self._events.add(
                "settled", f"as before holdfast again, or gone: {', '.join(names)}", settings=names
            )

    def settle_resumed(self, context: Context[Any]) -> None:
        """Return how an operation ended that the end of the daemon cut short."""
        if not context.resumed:
            return
        self.finish_pending()
        if context.id not in self._store.state().committed:
            raise OperationFailed(
                Problem.of(
                    Slug.INTERRUPTED,
                    "The daemon ended while settings were written; all of them were reverted. "
                    "Start it again.",
                )
            )


def knobs_of(stored: Sequence[StoredKnob]) -> list[Knob]:
    """Return the knobs of a report."""
    return [setting.knob for setting in stored]


def _failure(failed: FailedKnob) -> Failure:
    return Failure(failed.knob.knob, failed.reason, failed.denied)


def _failures(failed: Sequence[FailedKnob]) -> list[Failure]:
    return [_failure(failure) for failure in failed]
