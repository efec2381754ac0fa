"""Tuning as the API and the command line see it: look, plan, apply, roll back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.capability import STOP_SECONDS, Capability
from holdfast.config.journaldir import journal_dir_of
from holdfast.node.paths.files import read_text
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import (
    OperationFailed,
    Problem,
    RequestError,
    Slug,
    now,
)
from holdfast.privileged import Privileged
from holdfast.privileged.client import Helper
from holdfast.scopes import Scope
from holdfast.tuning.at_start import AtStart
from holdfast.tuning.changes.change_requests import ChangeRequests, knobs_of
from holdfast.tuning.changes.ledger import Changes, Ledger
from holdfast.tuning.changes.left import left_settings, problem_of_left
from holdfast.tuning.changes.rebase import rebase, renamed
from holdfast.tuning.changes.requests import TuneChange, TuneRollback
from holdfast.tuning.changes.store import Active, State, Store
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.changes.traveller import Traveller
from holdfast.tuning.events import Events
from holdfast.tuning.models import (
    Applied,
    AppliedEntry,
    ApplyRequest,
    DriftedSetting,
    LeftSetting,
    Plan,
    PlanRequest,
    ProfileDetails,
    ProfileList,
    RollbackRequest,
    RolledBack,
    TuningState,
)
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.planner import Draft, Planner
from holdfast.tuning.problems import blamed
from holdfast.tuning.profile.catalog import Catalog
from holdfast.tuning.profile.layers import ProfileError
from holdfast.tuning.profile.library import Library
from holdfast.tuning.profile.named import allow_list
from holdfast.tuning.results import observed_settings, rolled_back
from holdfast.tuning.subsystems import all_subsystems
from holdfast.tuning.watch.drift import Drift, counts
from holdfast.tuning.watch.hotplug import Hotplug
from holdfast.tuning.watch.watcher import Watcher

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

log = logging.getLogger(__name__)

_RESOURCE = "tuning"
_PATIENCE_SECONDS = 0.5


class Tuning(Capability):
    """The settings of this machine. Methods may be called from any thread, and may block."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        profiles_dir: Path,
        privileged: Privileged,
        journal_dir: Path | None = None,
        at_start: AtStart | None = None,
        check_seconds: float = 10.0,
    ) -> None:
        """`journal_dir` is where changes are recorded, by whom makes them: see `journaldir.py`."""
        self._at_start = at_start or AtStart(reapply=False)
        self._check_seconds = check_seconds
        self.events = Events()
        helper = privileged if isinstance(privileged, Helper) else None
        directory = journal_dir or journal_dir_of(state_dir, helper.path if helper else None)
        self._store = Store(directory)
        self._library = Library(profiles_dir)
        self._catalog = Catalog(self._library)
        subsystems = all_subsystems()
        self._subsystems = tuple(subsystems)
        self._panel = Panel(subsystems, privileged)
        # What the helper takes is root's; what this process writes may be its own user's as well.
        allowed = allow_list(profiles_dir, {0} if helper else {0, os.geteuid()})
        changes: Changes = helper or Ledger(directory, privileged, allowed, subsystems)
        self._boot_id = read_text(Path("/proc/sys/kernel/random/boot_id")) or ""
        self._planner = Planner(roots, self._library, subsystems, self._panel, allowed)
        self._requests = ChangeRequests(changes, self._store, self._panel, self.events)
        self._drift = Drift(self._panel, self.events, self._requests.enforce)
        self._hotplug = Hotplug(self._planner, self._panel, self._requests.follow, self.events)
        self._traveller = Traveller(state_dir)
        self._mutex = threading.RLock()
        self._left: Mapping[str, int] = {}
        self._seen = (-1, -1)
        self._active: Active | None = None
        self._reapplying = False

    def prepare(self) -> None:
        """Finish what a crash left behind: go back, or commit what had been verified."""
        try:
            if self._store.pending() is None and not self._store.state().left:
                return
            with self._mutex:
                self._requests.finish_pending()
        except (RequestError, OperationFailed, OSError) as error:
            # The daemon has other work to do; `GET /v1/tuning` and each attempt report what is
            # wrong.
            self._requests.problem = str(error)
            log.error("settings: %s", error)

    def kinds(self) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of operation: `tuning.apply` and `tuning.rollback`."""

        def resources(_params: Any) -> frozenset[str]:
            return frozenset({_RESOURCE})

        return (
            Kind(
                "tuning.apply",
                ApplyRequest,
                Applied,
                self._apply,
                check=self._check,
                resumable=True,
                resources=resources,
                scope=Scope.ADMIN,
            ),
            Kind(
                "tuning.rollback",
                RollbackRequest,
                RolledBack,
                self._rollback,
                check=self._check,
                resumable=True,
                resources=resources,
                scope=Scope.ADMIN,
            ),
        )

    def _check(self, params: ApplyRequest | RollbackRequest) -> None:
        """Raise `RequestError` or `OperationFailed` for what cannot be done at all."""
        if isinstance(params, RollbackRequest):
            if not self._store.state().history:
                raise RequestError(
                    Slug.CONFLICT, "There is nothing to roll back: no profile was applied."
                )
            return
        with blamed():
            self._library.lineage(self._profile_of(params, self._store.state()))

    def plan(self, request: PlanRequest) -> Plan:
        """Return what applying a profile would do. Raises `RequestError` and `OperationFailed`."""
        with blamed():
            state = rebase(self._store.state(), self._boot_id, self._panel)
            renamed(state, self._panel)
            profile = self._profile_of(request, state)
            return self._planner.draft(profile, state, persist=request.persist).plan

    def profiles(self) -> ProfileList:
        """List the profiles, those that cannot be used among them."""
        return self._catalog.profiles(self._applied_name())

    def profile(self, name: str) -> ProfileDetails:
        """Describe a profile. Raises `RequestError` and `OperationFailed`."""
        with blamed():
            return self._catalog.profile(name, self._applied_name())

    def state(self) -> TuningState:
        """Return what is in force, what has drifted, and what can be rolled back."""
        state = self._store.state()
        active = state.active
        drifted, checked_at = self._drifted(active)
        left = self._all_left()
        return TuningState(
            profile=active.profile if active else None,
            policy=active.policy if active else None,
            applied_at=active.applied_at if active else None,
            persist=active.persist if active else False,
            profile_changed=active is not None and self._catalog.changed(active),
            settings=dict(counts(active.settings)) if active else {},
            drifted=drifted,
            checked_at=checked_at,
            history=[
                AppliedEntry(
                    profile=applied.profile,
                    applied_at=applied.applied_at,
                    changes=len(applied.changes),
                )
                for applied in reversed(state.history)
            ],
            events=self.events.latest(),
            left=left,
            problem=self._requests.problem or problem_of_left(left),
        )

    def _drifted(self, active: Active | None) -> tuple[list[DriftedSetting], datetime | None]:
        if active is None:
            return [], None
        # While settings are being written they are neither as before nor as they should be.
        if not self._mutex.acquire(timeout=_PATIENCE_SECONDS):
            return list(self._drift.drifted), self._drift.checked_at
        try:
            return self._drift.inspect(active), now()
        finally:
            self._mutex.release()

    @contextmanager
    def running(self, operations: Operations) -> Iterator[None]:
        """Apply what the settings want applied, and watch for as long as the block runs."""
        self._at_start.apply(self, operations)
        watcher = Watcher(self.watch, self._check_seconds)
        watcher.start()
        try:
            yield
        finally:
            watcher.stop(STOP_SECONDS)

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what counts settings."""
        from holdfast.tuning.metrics import SettingsCollector  # noqa: PLC0415 - for the daemon alone

        del operations
        return (SettingsCollector(self.figures),)

    def figures(self) -> tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]:
        """Count settings in force, drifted ones and those left, by subsystem. Reads memory only."""
        active = self._active
        totals = dict.fromkeys(self._subsystems, 0)
        drifted = dict(totals)
        totals |= counts(active.settings) if active else {}
        for drift in self._drift.drifted:
            drifted[drift.subsystem] += 1
        return totals, drifted, {**dict.fromkeys(self._subsystems, 0), **self._left}

    def unfinished_boot(self) -> ApplyRequest | None:
        """Return what to apply because this boot took the kernel's values back; None if nothing.

        In a system that a re-imaging wrote there is no record yet: then it is the profile that
        the data came with, if it is one of this system's.
        """
        state = self._store.state()
        if state.active is not None and state.boot_id != self._boot_id:
            request = ApplyRequest(profile=state.active.profile, persist=state.active.persist)
        elif self.untouched():
            named = self._traveller.arrived()
            if named is None:
                return None
            request = ApplyRequest(profile=named.profile, persist=named.persist)
        else:
            return None
        self._reapplying = True
        return request

    def untouched(self) -> bool:
        """Whether no profile was ever applied on this node."""
        return self._store.stamp() == (0, 0)

    def not_started(self, reason: str) -> None:
        """Report that what was to be applied at the start could not be."""
        self._reapplying = False
        self.events.add("failed", f"no profile was applied at the start: {reason}")

    def watch(self, *, thorough: bool) -> None:
        """Look for drift; `thorough` looks for devices that appeared or went as well.

        Never raises: what goes wrong is an event.
        """
        try:
            if not self._needs_watching():
                return
            with self._mutex:
                self._watch(thorough=thorough)
        except (RequestError, OperationFailed, ProfileError, OSError, ValueError) as error:
            self.events.add("failed", f"drift could not be checked: {error}")
        except Exception:
            log.exception("drift could not be checked")

    def _apply(self, context: Context[ApplyRequest]) -> Applied:
        try:
            return self._put_in_force(context)
        finally:
            self._reapplying = False

    def _put_in_force(self, context: Context[ApplyRequest]) -> Applied:
        request = context.params
        with self._mutex, blamed():
            self._requests.settle_resumed(context)
            self._requests.finish_pending()
            stored = self._store.state()
            state = rebase(stored, self._boot_id, self._panel)
            profile = self._profile_of(request, state)
            draft = self._planner.draft(profile, state, persist=request.persist)
            self._refuse(request, draft)
            written = self._carry_out(context.id, draft, stored)
            self._in_force()
            settings = observed_settings(self._panel, draft)
            left = self._newly_left(stored)
        if written:
            self.events.add(
                "applied",
                f"profile {profile} applied: {len(written)} settings written and read back",
                profile=profile,
                settings=[str(knob) for knob in written],
            )
        plan = draft.plan.model_copy(update={"settings": settings})
        return Applied(**dict(plan), written=len(written), left=left)

    def _carry_out(self, operation: str, draft: Draft, stored: State) -> Sequence[Knob]:
        active = Active(
            profile=draft.plan.profile,
            policy=draft.plan.policy,
            applied_at=now(),
            persist=draft.plan.persist,
            digest=draft.resolved.digest,
            settings=draft.in_force,
        )
        report = self._requests.change(
            TuneChange(
                how="apply",
                operation=operation,
                based_on=stored.revision,
                active=active,
                goal=draft.goal,
                keep=draft.keep,
            )
        )
        return knobs_of(report.written)

    def _rollback(self, context: Context[RollbackRequest]) -> RolledBack:
        with self._mutex:
            self._requests.settle_resumed(context)
            self._requests.finish_pending()
            if not self._store.state().history:
                raise RequestError(
                    Slug.CONFLICT, "There is nothing to roll back: no profile was applied."
                )
            report = self._requests.change(TuneRollback(operation=context.id, to=context.params.to))
            self._in_force()
            active = self._active
            asked = {restored.knob.knob for restored in report.restored}
            left = [setting for setting in self._all_left() if setting.knob in asked]
        written = knobs_of(report.written)
        profile = active.profile if active else None
        self.events.add(
            "rolled-back",
            f"rolled back to {f'profile {profile}' if profile else 'what was before holdfast'}: "
            f"{len(written)} settings written and read back",
            profile=profile,
            settings=[str(knob) for knob in written],
        )
        return rolled_back(report, profile, left)

    def _all_left(self) -> list[LeftSetting]:
        return left_settings(self._store.state(), self._panel)

    def _newly_left(self, before: State) -> list[LeftSetting]:
        known = {setting.knob for setting in before.left}
        return [setting for setting in self._all_left() if setting.knob not in known]

    def _in_force(self) -> None:
        """Begin to watch what is in force now."""
        state = self._store.state()
        self._active = state.active
        self._left = counts(state.left)
        self._traveller.pack(self._active)
        self._drift.forget()
        self._hotplug.forget()

    def _watch(self, *, thorough: bool) -> None:
        self._requests.finish_pending(patient=not thorough)
        state = self._store.state()
        self._active = state.active
        if state.active is None:
            self._drift.forget()
            return
        if state.boot_id != self._boot_id:
            # Of another boot: it is about to be applied again, or else only shown.
            if not self._reapplying:
                self._drift.check(state.active.model_copy(update={"policy": "report"}))
            return
        if thorough:
            self._hotplug.follow(state, state.active)
            self._active = self._store.state().active
        if self._active is not None:
            self._drift.check(self._active)

    def _refuse(self, request: ApplyRequest, draft: Draft) -> None:
        if draft.mistakes:
            raise ProfileError(draft.mistakes)
        if request.plan is not None and request.plan != draft.plan.plan:
            raise OperationFailed(
                Problem.of(
                    Slug.CONFLICT,
                    f"The plan would be another one now ({draft.plan.plan}): the profile or the "
                    "machine has changed since; check the new plan.",
                )
            )

    def _profile_of(self, request: PlanRequest, state: State) -> str:
        if request.profile is not None:
            return request.profile
        if state.active is None:
            raise RequestError(
                Slug.INVALID_REQUEST,
                "No profile is applied, so `profile` has to name one.",
                field="profile",
            )
        return state.active.profile

    def _applied_name(self) -> str | None:
        active = self._store.state().active
        return active.profile if active else None

    def _needs_watching(self) -> bool:
        """Whether anything is in force; reads the state only if it was changed."""
        stamp = self._store.stamp()
        if stamp != self._seen:
            state = self._store.state()
            self._active = state.active
            self._left = counts(state.left)
            self._seen = stamp
            if self._active is None:
                self._drift.forget()
        return self._active is not None or self._requests.problem is not None or bool(self._left)
