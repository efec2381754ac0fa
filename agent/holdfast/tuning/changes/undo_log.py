"""Changes of settings with a journal: whole or not at all, whenever the process ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from holdfast.operations.model import now
from holdfast.tuning.changes.store import Change, Left, Pending, State, Store, StoredKnob, Valued
from holdfast.tuning.changes.transaction import ChangeFailed, Effects, Failure, Panel, shown
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.resolve import is_file

log = logging.getLogger(__name__)


class UndoLog:
    """Makes changes and records them. Call with the store locked."""

    def __init__(self, store: Store, panel: Panel, boot_id: str) -> None:
        self._store = store
        self._panel = panel
        self._boot_id = boot_id

    def change(
        self,
        operation: str,
        goal: Sequence[Valued],
        keep: Sequence[Valued],
        after: Callable[[list[Change]], State],
        *,
        restore: Sequence[Valued] = (),
        peers: Collection[Knob] = (),
    ) -> list[Knob]:
        """Reach `goal` without disturbing `keep`; return what was written.

        `restore` is reached as far as that is possible, and what is not goes into the
        state's `left`. What these writes change besides is undone; of copies of a setting, which
        the kernel makes for each interface, only those in `peers`. `after` makes what is in force
        once it is done, from what was changed. Raises `ChangeFailed` with everything as it was
        before, but for what is `left`.
        """
        pending = self._pending(operation, [*restore, *goal])
        self._store.begin(pending)
        effects = Effects({setting.knob: setting for setting in (*pending.before, *pending.around)})
        written: list[Knob] = []
        lacking: list[Failure] = []
        try:
            if restore:
                lacking = self._restore(restore, peers, written, effects)
            failures = self._reach(goal, keep, written, effects)
            if restore and goal and not failures:
                # What was refused may have waited for the goal, which has the last word.
                lacking = self._restore(restore, peers, written, effects)
                failures = self._reach(goal, keep, written, effects)
            lacking = self._lacking(restore, lacking, effects, [*goal, *keep])
            if not goal and not written and lacking and all(setting.denied for setting in lacking):
                failures = lacking
        except Exception as error:
            log.exception("a change of settings met an error it did not expect")
            first = pending.before[0].knob if pending.before else Knob("", "", operation)
            failures = [Failure(first, f"an unexpected error: {type(error).__name__}")]
        if failures:
            left = self._revert(pending)
            reverted = [knob for knob in dict.fromkeys(written) if knob not in _knobs(left)]
            raise ChangeFailed(failures[0], reverted, left)
        before = {setting.knob: setting for setting in self._store.state().left}
        state = after(self._changes(goal, pending, effects, before))
        state.note_committed(operation)
        tried = {setting.knob for setting in (*goal, *restore)}
        kept = [setting for setting in state.left if setting.knob not in tried]
        state.left = [*kept, *self._left(lacking, restore, before)]
        state.left = [setting for setting in state.left if not _in_force(state, setting)]
        try:
            self._store.begin(pending.model_copy(update={"phase": "verified", "after": state}))
        except OSError:
            self._revert(pending)
            raise
        # From here on it is done: the journal has it, also if the rest has to wait.
        try:
            self._store.save(state)
            self._store.end()
        except OSError as error:
            log.warning("the record of settings will be finished later: %s", error)
        return list(dict.fromkeys(written))

    def recover(self) -> tuple[Pending, list[Failure]] | None:
        """Finish what a crash left: go back, or commit what had been verified.

        Return the change and what could not be restored; None if there was none.
        """
        pending = self._store.pending()
        if pending is None:
            return None
        if pending.phase == "verified" and pending.after is not None:
            self._store.save(pending.after)
            self._store.end()
            return pending, []
        return pending, self._revert(pending)

    def retry(self) -> list[Left]:
        """Retry what could not be reverted; return what is settled by now."""
        state = self._store.state()
        if not state.left:
            return []
        here = [setting for setting in state.left if not self._panel.gone(setting)]
        failures = {
            failure.knob: failure.reason
            for failure in self._panel.bring(here, written=[], keep_going=True)
        }
        remaining = [
            setting.model_copy(update={"reason": failures[setting.knob]})
            for setting in here
            if setting.knob in failures
        ]
        if remaining != state.left:
            self._store.save(state.model_copy(update={"left": remaining}))
        return [setting for setting in state.left if setting.knob not in failures]

    def _pending(self, operation: str, wanted: Sequence[Valued]) -> Pending:
        """Observe what is to be written, and what that may change besides."""
        knobs = list(dict.fromkeys(setting.knob for setting in wanted))
        return Pending(
            operation=operation,
            boot_id=self._boot_id,
            phase="writing",
            before=self._panel.valued(self._panel.observe(knobs)),
            around=self._panel.surroundings(knobs),
        )

    def _reach(
        self,
        goal: Sequence[Valued],
        keep: Sequence[Valued],
        written: list[Knob],
        effects: Effects,
    ) -> list[Failure]:
        if not goal:
            return []
        failures = self._panel.bring(goal, written=written, effects=effects)
        both = {setting.knob: setting for setting in (*keep, *goal)}
        return failures or self._panel.bring(list(both.values()), written=written, effects=effects)

    def _restore(
        self,
        restore: Sequence[Valued],
        peers: Collection[Knob],
        written: list[Knob],
        effects: Effects,
    ) -> list[Failure]:
        """Restore what was before, and undo what these writes change besides."""
        panel = self._panel
        failures = panel.bring(restore, written=written, keep_going=True, effects=effects)
        knobs = {setting.knob for setting in restore}
        undo = [
            effects.steady[knob].model_copy(update={"effect": True})
            for knob in effects.of(knobs)
            if knob not in knobs and (knob in peers or not self._is_copy(knob, effects))
        ]
        if undo:
            panel.bring([*restore, *undo], written=[], keep_going=True, effects=effects)
            failures = panel.bring(restore, written=written, keep_going=True, effects=effects)
        return failures

    def _is_copy(self, knob: Knob, effects: Effects) -> bool:
        return any(self._panel.is_copy(knob, cause) for cause in effects.causes.get(knob, ()))

    def _lacking(
        self,
        restore: Sequence[Valued],
        failures: Sequence[Failure],
        effects: Effects,
        wanted: Sequence[Valued],
    ) -> list[Failure]:
        """Return what is not restored, but for what the wanted settings make what it is."""
        reasons = {failure.knob: failure for failure in failures}
        bound = set(effects.of({setting.knob for setting in wanted}))
        observed = self._panel.observe(setting.knob for setting in restore)
        return [
            reasons.get(setting.knob)
            or Failure(setting.knob, f"is {shown(observed[setting.knob])}, and not {setting.value}")
            for setting in restore
            if setting.knob not in bound
            and not self._panel.same(setting.knob, setting.value, observed[setting.knob])
            and not self._panel.gone(setting)
        ]

    def _changes(
        self,
        goal: Sequence[Valued],
        pending: Pending,
        effects: Effects,
        left: dict[Knob, Left],
    ) -> list[Change]:
        """Return what is another now, with what it was, and what changed it."""
        wanted = {setting.knob: setting.value for setting in goal}
        names = {setting.knob: setting for setting in pending.before}
        copied = {_leaf(knob) for knob in (*effects.causes, *wanted)}
        changes = []

        def add(setting: Valued, after: str, causes: Collection[Knob] = ()) -> None:
            before = (
                left[setting.knob].value
                if setting.knob in wanted.keys() & left.keys()
                else setting.value
            )
            named = setting.model_dump(exclude={"value", "effect"})
            by = [_stored(names[knob]) for knob in sorted(causes)]
            changes.append(Change(**named, before=before, after=after, causes=by))

        around = [setting.knob for setting in pending.around]
        seen = self._panel.observe([*names, *around])
        for setting in pending.before:
            after = seen[setting.knob].value
            if setting.knob in wanted:
                add(setting, wanted[setting.knob])
            elif after != setting.value:
                add(setting, after or "", effects.causes.get(setting.knob, set()) & wanted.keys())
        for setting in pending.around:
            after = seen[setting.knob].value
            causes = effects.causes.get(setting.knob, set()) & names.keys()
            if after != setting.value and causes:
                add(setting, after or "", causes)
            elif after == setting.value and _leaf(setting.knob) in copied:
                # The way back may change it, and is to know then that it was there before.
                copies = [knob for knob in wanted if self._panel.is_copy(setting.knob, knob)]
                if copies:
                    add(setting, after, copies)
        return changes

    def _revert(self, pending: Pending) -> list[Failure]:
        """Go back, and forget the change; what cannot be reverted is kept in the state."""
        same_boot = pending.boot_id == self._boot_id
        # A boot takes the kernel's values back by itself, and gives names to other devices.
        goal = [setting for setting in pending.before if same_boot or is_file(setting.knob)]
        if same_boot:
            goal += [setting.model_copy(update={"effect": True}) for setting in pending.around]
        failures = self._panel.bring(goal, written=[], keep_going=True)
        if failures:
            log.error("settings could not be reverted: %s", "; ".join(map(str, failures)))
            state = self._store.state()
            known = {setting.knob: setting for setting in state.left}
            again = self._left(failures, goal, known)
            tried = {setting.knob for setting in again}
            state.left = [*(setting for setting in state.left if setting.knob not in tried), *again]
            self._store.save(state)
        self._store.end()
        return failures

    def _left(
        self, failures: Iterable[Failure], wanted: Sequence[Valued], known: dict[Knob, Left]
    ) -> list[Left]:
        values = {setting.knob: setting for setting in wanted}
        return [
            Left(
                **values[failure.knob].model_dump(exclude={"effect"}),
                reason=failure.reason,
                since=known[failure.knob].since if failure.knob in known else now(),
            )
            for failure in failures
        ]


def _stored(setting: Valued) -> StoredKnob:
    return StoredKnob(**setting.model_dump(include=set(StoredKnob.model_fields)))


def _leaf(knob: Knob) -> str:
    return knob.name.rpartition(".")[2]


def _in_force(state: State, setting: Left) -> bool:
    return state.active is not None and any(
        setting.knob == each.knob for each in state.active.settings
    )


def _knobs(failures: Sequence[Failure]) -> frozenset[Knob]:
    return frozenset(failure.knob for failure in failures)
