"""Brings knobs to values: all of them, each read back, or none.

Going forward, going back and finishing after a crash are one and the same thing: knobs are looked
at, those that are not what they should be are written, and all are looked at again, as one write
can undo another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.privileged import Privileged, Refused
from holdfast.tuning.knobs import Knob, Observed, Subsystem
from holdfast.tuning.resolve import is_file
from holdfast.tuning.store import Change, Pending, State, Store, Valued

log = logging.getLogger(__name__)

_ROUNDS = 3


@dataclass(frozen=True)
class Failure:
    """A knob that did not become what it should."""

    knob: Knob
    reason: str
    """A clause."""
    denied: bool = False
    """The operating system did not permit it."""

    def __str__(self) -> str:
        return f"{self.knob}: {self.reason}"


class ChangeFailed(Exception):  # noqa: N818 - like OperationFailed
    """A change was begun and taken back."""

    def __init__(self, failure: Failure, reverted: Sequence[Knob], left: Sequence[Failure]) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.reverted = reverted
        """What had been written, and is again what it was."""
        self.left = left
        """What could not be brought back."""


class Panel:
    """All knobs of this machine: observed through their subsystems, written by the room."""

    def __init__(self, subsystems: Mapping[str, Subsystem], privileged: Privileged) -> None:
        self._subsystems = subsystems
        self._privileged = privileged
        self._order = list(subsystems)

    def observe(self, knobs: Iterable[Knob]) -> dict[Knob, Observed]:
        """Look at knobs, one subsystem at a time."""
        by_subsystem: dict[str, list[Knob]] = {}
        for knob in knobs:
            by_subsystem.setdefault(knob.subsystem, []).append(knob)
        found: dict[Knob, Observed] = {}
        for name, some in by_subsystem.items():
            found.update(self._subsystems[name].observe(some))
        return found

    def open_files(self, mount_point: str) -> Mapping[str, int] | None:
        """Count files open on a file system, by process; None if that cannot be found out."""
        try:
            return self._privileged.open_files(mount_point)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("files open on %s cannot be counted: %s", mount_point, error)
            return None

    def same(self, knob: Knob, desired: str, observed: Observed) -> bool:
        """Whether a knob is what it should be."""
        value = observed.value
        return value is not None and self._subsystems[knob.subsystem].same(desired, value)

    def identity(self, knob: Knob) -> str:
        """Tell the knob's target from another of the same name."""
        return self._subsystems[knob.subsystem].identity(knob.target)

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Say why a knob cannot be brought to a value; None if it may be tried."""
        if observed.problem is not None and observed.value is not None:
            # Read-only: fine as long as it is right.
            return None if self.same(knob, desired, observed) else observed.problem
        found = self._subsystems[knob.subsystem].problem(knob, desired, observed)
        return found if found is not None else observed.problem

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name what a write to a knob may change besides."""
        return self._subsystems[knob.subsystem].companions(knob)

    def bring(
        self, goal: Sequence[Valued], *, written: list[Knob], keep_going: bool = False
    ) -> list[Failure]:
        """Bring knobs to values and read each back; `written` collects what was written.

        Ends at the first failure, or tries everything with `keep_going`. Knobs whose target is
        gone, or is another one of the same name, are passed over then.
        """
        ordered = sorted(goal, key=lambda one: self._place(one.knob))
        failures: dict[Knob, Failure] = {}
        for _ in range(_ROUNDS):
            observed = self.observe(one.knob for one in ordered)
            off = [
                one
                for one in ordered
                if not self.same(one.knob, one.value, observed[one.knob])
                and not (keep_going and self._other(one))
            ]
            if not off:
                return []
            failures = {}
            for one in off:
                failure = self._turn(one, written)
                if failure is None:
                    continue
                failures[one.knob] = failure
                if not keep_going:
                    return [failure]
            if failures:
                # What failed may have needed what was written after it.
                continue
        observed = self.observe(one.knob for one in ordered)
        return [
            failures.get(one.knob)
            or Failure(one.knob, f"is {_told(observed[one.knob])} again, and not {one.value}")
            for one in ordered
            if not self.same(one.knob, one.value, observed[one.knob])
            and not (keep_going and self._other(one))
        ]

    def _turn(self, one: Valued, written: list[Knob]) -> Failure | None:
        knob = one.knob
        subsystem = self._subsystems[knob.subsystem]
        now = subsystem.observe([knob])[knob]
        if self.same(knob, one.value, now):
            return None
        if one.identity and self.identity(knob) != one.identity:
            return Failure(knob, f"{knob.target} is gone, or is another one by now")
        try:
            self._privileged.perform(subsystem.write(knob, one.value, one.identity))
            written.append(knob)
        except (Refused, ValueError) as error:
            return Failure(knob, f"could not be written: {str(error).rstrip('.')}")
        except OSError as error:
            reason = error.strerror or str(error)
            denied = isinstance(error, PermissionError)
            return Failure(knob, f"could not be set to {one.value}: {reason}", denied)
        after = subsystem.observe([knob])[knob]
        if not self.same(knob, one.value, after):
            return Failure(knob, f"was set to {one.value}, but reads back as {_told(after)}")
        return None

    def _other(self, one: Valued) -> bool:
        """Whether the target is gone, or is another one of the same name."""
        return bool(one.identity) and self.identity(one.knob) != one.identity

    def _place(self, knob: Knob) -> tuple[int, str, int, str]:
        rank = self._subsystems[knob.subsystem].rank(knob)
        return (self._order.index(knob.subsystem), knob.target, rank, knob.name)


class Journal:
    """Changes with a journal: whole or not at all, whenever the process ends."""

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
    ) -> list[Knob]:
        """Bring `goal` about without disturbing `keep`; return what was written.

        `after` makes what is in force once it is done, from what was changed. Call with the store
        locked. Raises `ChangeFailed` with everything as it was before, or with what is `left`.
        """
        before = self._before(goal)
        pending = Pending(
            operation=operation, boot_id=self._boot_id, phase="writing", before=before
        )
        self._store.begin(pending)
        written: list[Knob] = []
        try:
            failures = self._panel.bring(goal, written=written)
            if not failures:
                failures = self._panel.bring(_merged(keep, goal), written=written)
        except Exception as error:
            log.exception("a change of settings met an error it did not expect")
            failures = [Failure(goal[0].knob, f"an unexpected error: {type(error).__name__}")]
        if failures:
            left = self._revert(pending)
            reverted = [knob for knob in dict.fromkeys(written) if knob not in _knobs(left)]
            raise ChangeFailed(failures[0], reverted, left)
        state = after(self._changes(goal, before))
        state.note_committed(operation)
        try:
            self._store.begin(pending.model_copy(update={"phase": "verified", "after": state}))
        except OSError:
            self._revert(pending)
            raise
        # From here on it is done: the journal says so, also if the rest has to wait.
        try:
            self._store.save(state)
            self._store.end()
        except OSError as error:
            log.warning("the record of settings will be finished later: %s", error)
        return list(dict.fromkeys(written))

    def _changes(self, goal: Sequence[Valued], before: Sequence[Valued]) -> list[Change]:
        wanted = {one.knob: one.value for one in goal}
        seen = self._panel.observe(one.knob for one in before)
        changes = []
        for one in before:
            now = wanted.get(one.knob, seen[one.knob].value or one.value)
            if one.knob in wanted or now != one.value:
                changes.append(
                    Change(**one.model_dump(exclude={"value"}), before=one.value, after=now)
                )
        return changes

    def _before(self, goal: Sequence[Valued]) -> list[Valued]:
        """Look at what is to be written, and at what that changes besides."""
        knobs = [one.knob for one in goal]
        extra = [knob for one in knobs for knob in self._panel.companions(one)]
        observed = self._panel.observe(dict.fromkeys([*knobs, *extra]))
        return [
            Valued(
                subsystem=knob.subsystem,
                target=knob.target,
                name=knob.name,
                identity=self._panel.identity(knob),
                value=seen.value,
            )
            for knob, seen in observed.items()
            if seen.value is not None
        ]

    def recover(self) -> tuple[Pending, list[Failure]] | None:
        """Finish what a crash left: go back, or commit what had been verified.

        Return the change and what could not be brought back; None if there was none. Call with
        the store locked.
        """
        pending = self._store.pending()
        if pending is None:
            return None
        if pending.phase == "verified" and pending.after is not None:
            self._store.save(pending.after)
            self._store.end()
            return pending, []
        return pending, self._revert(pending)

    def _revert(self, pending: Pending) -> list[Failure]:
        same_boot = pending.boot_id == self._boot_id
        # A boot takes the kernel's values back by itself, and gives names to other devices.
        goal = [one for one in pending.before if same_boot or is_file(one.knob)]
        left = self._panel.bring(goal, written=[], keep_going=True)
        if left:
            log.error("settings could not be brought back: %s", "; ".join(map(str, left)))
            return left
        self._store.end()
        return []


def _merged(keep: Sequence[Valued], goal: Sequence[Valued]) -> list[Valued]:
    return list({one.knob: one for one in (*keep, *goal)}.values())


def _knobs(failures: Sequence[Failure]) -> frozenset[Knob]:
    return frozenset(one.knob for one in failures)


def _told(observed: Observed) -> str:
    return observed.value if observed.value is not None else f"unreadable ({observed.problem})"
