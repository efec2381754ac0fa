"""Changes settings, in the process that has the rights, and keeps the record of it.

What settings were before is observed and recorded here, so that going back needs no word from the
process that asks. The record is in a directory of this process's own (`store.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from holdfast.node.paths.files import read_text
from holdfast.operations.model import now
from holdfast.privileged import Privileged, Refused, Write
from holdfast.privileged.allowed import AllowList
from holdfast.text.wording import plain
from holdfast.tuning.changes.baseline import Baseline, before, unwanted
from holdfast.tuning.changes.rebase import rebase, renamed
from holdfast.tuning.changes.requests import (
    FailedKnob,
    Recovered,
    Restored,
    TuneChange,
    TuneEnforce,
    TuneRecover,
    TuneReport,
    TuneRequest,
    TuneRollback,
)
from holdfast.tuning.changes.store import Active, Change, Entry, State, Store, StoredKnob, Valued
from holdfast.tuning.changes.transaction import ChangeFailed, Failure, Panel
from holdfast.tuning.changes.undo_log import UndoLog
from holdfast.tuning.planning.knobs import Knob, Subsystem
from holdfast.tuning.profile.schema import NAMES
from holdfast.tuning.subsystems import all_subsystems

log = logging.getLogger(__name__)

_CHANGED = "Settings were changed by another process since the plan was made; make it again."


class Changes(Protocol):
    """The process that changes settings: this one, or the helper."""

    def tune(self, request: TuneRequest) -> TuneReport:
        """Do it. Raises `Refused` or `RequestError` with a sentence, and `OSError`."""


class Ledger:
    """Makes changes with a journal: whole or not at all. For any number of threads."""

    def __init__(
        self,
        directory: Path,
        privileged: Privileged,
        allowed: AllowList,
        subsystems: Mapping[str, Subsystem] | None = None,
    ) -> None:
        """Take `allowed` for what requests name; what was before is restored whatever it is."""
        self._allowed = allowed
        self._subsystems = all_subsystems() if subsystems is None else subsystems
        self._store = Store(directory)
        self._panel = Panel(self._subsystems, privileged)
        self._boot_id = read_text(Path("/proc/sys/kernel/random/boot_id")) or ""
        self._journal = UndoLog(self._store, self._panel, self._boot_id)

    def tune(self, request: TuneRequest) -> TuneReport:
        """Do it. Raises `Refused` or `RequestError` with a sentence, and `OSError`."""
        try:
            with self._store.locked():
                report = self._recover()
                match request:
                    case TuneChange():
                        return self._change(request)
                    case TuneRollback():
                        return self._roll_back(request)
                    case TuneRecover():
                        return report.model_copy(
                            update={"settled": _stored(knob.knob for knob in self._journal.retry())}
                        )
                    case TuneEnforce():
                        return self._enforce(request)
        except ChangeFailed as error:
            return TuneReport(
                failure=_failed(error.failure),
                reverted=_stored(error.reverted),
                left=[_failed(failure) for failure in error.left],
            )

    def _recover(self) -> TuneReport:
        """Finish what a crash left, and record the new names of what was renamed."""
        finished = self._journal.recover()
        state = self._store.state()
        if state.boot_id == self._boot_id and renamed(state, self._panel):
            self._store.save(state)
        if finished is None:
            return TuneReport()
        pending, left = finished
        knobs = _stored(setting.knob for setting in pending.before)
        return TuneReport(
            recovered=Recovered(finished=pending.phase == "verified", knobs=knobs),
            left=[_failed(setting) for setting in left],
        )

    def _change(self, request: TuneChange) -> TuneReport:
        stored = self._store.state()
        if stored.revision != request.based_on:
            return TuneReport(conflict=_CHANGED)
        self._check(request, stored)
        active = request.active
        if request.how == "follow":
            if stored.active is None or stored.active.profile != active.profile:
                return TuneReport(conflict=_CHANGED)
            return self._carry_out(request, _Followed(stored, active), Baseline())
        rebooted = stored.active is not None and stored.boot_id != self._boot_id
        state = self._rebased(stored)
        wanted = {
            setting.knob: setting.value
            for setting in (*active.settings, *request.keep, *request.goal)
        }
        baseline = self._off(unwanted(state, wanted, self._panel))
        return self._carry_out(request, _Applied(state, active, rebooted=rebooted), baseline)

    def _carry_out(
        self, request: TuneChange, following: _Following, baseline: Baseline
    ) -> TuneReport:
        def after(changes: list[Change]) -> State:
            state = following.state(changes)
            state.boot_id = self._boot_id
            return state

        if request.goal or baseline.settings:
            written = self._journal.change(
                request.operation,
                request.goal,
                request.keep,
                after,
                restore=baseline.settings,
                peers=baseline.peers,
            )
            return TuneReport(written=_stored(written))
        if following.differs:
            state = after([])
            state.note_committed(request.operation)
            self._store.save(state)
        return TuneReport()

    def _roll_back(self, request: TuneRollback) -> TuneReport:
        state = self._rebased(self._store.state())
        if not state.history:
            return TuneReport(conflict="There is nothing to roll back: no profile was applied.")
        undone = state.history[-1:] if request.to == "last" else state.history
        baseline = before(undone, self._panel)
        following = state.model_copy(deep=True)
        following.boot_id = self._boot_id
        following.history = state.history[: len(state.history) - len(undone)]
        following.active = undone[0].previous
        goal = baseline.settings
        off = self._off(baseline)
        written: Sequence[Knob] = []
        if off.settings:
            written = self._journal.change(
                request.operation,
                [],
                [],
                lambda _changes: following,
                restore=off.settings,
                peers=off.peers,
            )
        else:
            following.note_committed(request.operation)
            self._store.save(following)
        after = self._panel.observe(setting.knob for setting in goal)
        return TuneReport(
            written=_stored(written),
            restored=[
                Restored(knob=setting, observed=after[setting.knob].value) for setting in goal
            ],
            notes=baseline.notes,
        )

    def _off(self, baseline: Baseline) -> Baseline:
        """Return what of it is not so by now."""
        observed = self._panel.observe(setting.knob for setting in baseline.settings)
        off = [
            setting
            for setting in baseline.settings
            if not self._panel.same(setting.knob, setting.value, observed[setting.knob])
        ]
        return Baseline(off, baseline.peers, baseline.notes)

    def _enforce(self, request: TuneEnforce) -> TuneReport:
        state = self._store.state()
        if state.active is None or state.boot_id != self._boot_id:
            return TuneReport(conflict=_CHANGED)
        asked = {knob.knob for knob in request.knobs}
        goal = [setting for setting in state.active.settings if setting.knob in asked]
        written: list[Knob] = []
        left = self._panel.bring(goal, written=written, keep_going=True)
        return TuneReport(
            written=_stored(dict.fromkeys(written)), left=[_failed(setting) for setting in left]
        )

    def _check(self, request: TuneChange, stored: State) -> None:
        """Raise `Refused` for a setting that is none or is not allowed, or for a wrong value."""
        before = {
            (change.knob, change.before): change
            for applied in stored.history
            for change in applied.changes
        }
        knobs = [setting.knob for setting in request.goal]
        if len(set(knobs)) < len(knobs):
            raise Refused("A setting is named twice.")
        writes = []
        for setting in (*request.goal, *request.keep, *request.active.settings):
            write = self._write(setting)
            # What it was before holdfast is restored also where no profile names it any more.
            if (setting.knob, setting.value) not in before:
                writes.append(write)
        self._allowed.check(*writes)

    def _write(self, setting: Valued) -> Write:
        """Make the write of a setting that a request names. Raises `Refused`."""
        subsystem = self._subsystems.get(setting.subsystem)
        names = NAMES.get(setting.subsystem, ())
        if subsystem is None or (names and setting.name not in names):
            raise Refused(f"`{setting.knob}` is no setting.")
        try:
            return subsystem.write(setting.knob, setting.value, setting.identity)
        except (ValueError, OSError) as error:
            raise Refused(
                f"{setting.knob} cannot be set to {setting.value[:80]!r}: {_reason(error)}."
            ) from error

    def _rebased(self, state: State) -> State:
        return rebase(state, self._boot_id, self._panel)


class _Following(Protocol):
    """What is recorded once a change is done."""

    @property
    def differs(self) -> bool:
        """Whether there is something to record though nothing was written."""

    def state(self, changes: list[Change]) -> State:
        """Make the record from what was changed."""


class _Applied:
    """An apply: a step that can be rolled back."""

    def __init__(self, state: State, active: Active, *, rebooted: bool) -> None:
        self._rebooted = rebooted
        self._state = state
        self._active = active.model_copy(update={"applied_at": now()})

    @property
    def differs(self) -> bool:
        before = self._state.active
        if self._rebooted or before is None:
            return True
        same = {"applied_at"}
        return before.model_dump(exclude=same) != self._active.model_dump(exclude=same)

    def state(self, changes: list[Change]) -> State:
        following = self._state.model_copy(deep=True)
        following.active = self._active
        before = self._state.active
        other = before is None or before.profile != self._active.profile
        if self._rebooted and not other:
            # The same again after a boot is no step that anybody would want to go back.
            following.merge(changes)
        elif changes or other:
            following.push(
                Entry(
                    profile=self._active.profile,
                    applied_at=self._active.applied_at,
                    previous=before,
                    changes=changes,
                )
            )
        return following


class _Followed:
    """Settings of devices that appeared, and without those of devices that are gone."""

    differs = True

    def __init__(self, stored: State, active: Active) -> None:
        self._state = stored
        self._active = active

    def state(self, changes: list[Change]) -> State:
        following = self._state.model_copy(deep=True)
        before = following.active
        applied_at = self._active.applied_at if before is None else before.applied_at
        following.active = self._active.model_copy(update={"applied_at": applied_at})
        following.merge(changes)
        return following


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return plain(error.errors(include_url=False)[0])
    return str(error).rstrip(".")


def _failed(failure: Failure) -> FailedKnob:
    (knob,) = _stored([failure.knob])
    return FailedKnob(knob=knob, reason=failure.reason, denied=failure.denied)


def _stored(knobs: Iterable[Knob]) -> list[StoredKnob]:
    return [
        StoredKnob(subsystem=knob.subsystem, target=knob.target, name=knob.name) for knob in knobs
    ]
