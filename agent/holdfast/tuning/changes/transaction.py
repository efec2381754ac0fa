"""Sets knobs to values: all of them, each read back, or none.

Going forward, going back and finishing after a crash are one and the same thing: knobs are
observed, those that are not what they should be are written, and all are observed again, as one
write can undo another. What the kernel refuses is tried again after the others: it may depend on
them. That ends when a round makes no progress.

The kernel couples settings: setting vm.dirty_bytes makes vm.dirty_ratio 0. So what a write may
change besides is observed before and after it, and what did change is recorded with the change.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from holdfast.privileged import Privileged, Refused
from holdfast.text.wording import plain
from holdfast.tuning.changes.store import StoredKnob, Valued
from holdfast.tuning.planning.knobs import Knob, Observed, Subsystem

log = logging.getLogger(__name__)

_MOST_ROUNDS = 12
# No other setting unblocks these: only the order of writes is a reason to try again.
_FINAL = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.EIO})


@dataclass(frozen=True)
class Failure:
    """A knob that did not become what it should."""

    knob: Knob
    reason: str
    """A clause."""
    denied: bool = False
    """The operating system did not permit it."""
    final: bool = False
    """It would be the same after other writes."""

    def __str__(self) -> str:
        return f"{self.knob}: {self.reason}"


class ChangeFailed(Exception):  # noqa: N818 - like OperationFailed
    """A change was started and reverted."""

    def __init__(self, failure: Failure, reverted: Sequence[Knob], left: Sequence[Failure]) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.reverted = reverted
        """What had been written, and is again what it was."""
        self.left = left
        """What could not be reverted."""


@dataclass
class Effects:
    """What changed with the writes of other knobs."""

    steady: Mapping[Knob, Valued]
    """What may change so, with the values before; not what moves by itself."""
    causes: dict[Knob, set[Knob]] = field(default_factory=dict)
    """Of each knob that did, what was written."""

    def of(self, knobs: Collection[Knob]) -> list[Knob]:
        """Return what the writes of these knobs changed."""
        return [knob for knob, causes in self.causes.items() if not causes.isdisjoint(knobs)]


class Panel:
    """All knobs of this machine: observed through their subsystems, written by `Privileged`."""

    def __init__(self, subsystems: Mapping[str, Subsystem], privileged: Privileged) -> None:
        self._subsystems = subsystems
        self._privileged = privileged
        self._order = list(subsystems)

    def observe(self, knobs: Iterable[Knob]) -> dict[Knob, Observed]:
        """Observe knobs, one subsystem at a time."""
        by_subsystem: dict[str, list[Knob]] = {}
        for knob in knobs:
            by_subsystem.setdefault(knob.subsystem, []).append(knob)
        observed: dict[Knob, Observed] = {}
        for name, some in by_subsystem.items():
            observed.update(self._subsystems[name].observe(some))
        return observed

    def open_files(self, mount_point: str) -> Mapping[str, int] | None:
        """Count files open on a file system, by process; None if that cannot be determined."""
        try:
            return self._privileged.open_files(mount_point)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("files open on %s cannot be counted: %s", mount_point, error)
            return None

    def same(self, knob: Knob, desired: str, observed: Observed) -> bool:
        """Whether a knob is what it should be, or what the kernel rounds that to."""
        value = observed.value
        return value is not None and self._subsystems[knob.subsystem].same(knob, desired, value)

    def rounded(self, knob: Knob, value: str) -> str:
        """Return what the kernel keeps of a value, by a rule that is known."""
        return self._subsystems[knob.subsystem].rounded(knob, value)

    def identity(self, knob: Knob) -> str:
        """Identify the knob's target, to distinguish it from another of the same name."""
        return self._subsystems[knob.subsystem].identity(knob)

    def follow(self, knob: Knob, identity: str) -> Knob:
        """Return the knob under the name that its target has now; itself if that is gone."""
        return self._subsystems[knob.subsystem].follow(knob, identity)

    def same_target(self, setting: StoredKnob) -> bool:
        """Whether the target is there, and not another one of the same name."""
        return not setting.identity or self.identity(setting.knob) == setting.identity

    def gone(self, setting: StoredKnob) -> bool:
        """Whether the knob is not there, or is that of another target of the same name."""
        return not self.same_target(setting) or self.observe([setting.knob])[setting.knob].gone

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Return why a knob cannot be set to a value; None if it may be tried."""
        if observed.problem is not None and observed.value is not None:
            # Read-only: fine as long as the value is right.
            return None if self.same(knob, desired, observed) else observed.problem
        problem = self._subsystems[knob.subsystem].problem(knob, desired, observed)
        if problem is not None or observed.problem is not None:
            return problem or observed.problem
        for value, what in ((desired, "cannot be written"), (observed.value, "cannot be reverted")):
            try:
                if value is not None:
                    self._subsystems[knob.subsystem].write(knob, value, self.identity(knob))
            except (Refused, ValueError) as error:
                return f"{what}: {plainly(error)}"
        return None

    def valued(self, observed: Mapping[Knob, Observed]) -> list[Valued]:
        """Name knobs with the values they have, and their targets' identities."""
        return [
            Valued(
                subsystem=knob.subsystem,
                target=knob.target,
                name=knob.name,
                identity=self.identity(knob),
                value=seen.value,
            )
            for knob, seen in observed.items()
            if seen.value is not None
        ]

    def surroundings(self, knobs: Sequence[Knob]) -> list[Valued]:
        """Return what writes of knobs may change besides, with the values now.

        Only what can be written back, and does not move by itself: it is observed twice.
        """
        around = dict.fromkeys(other for knob in knobs for other in self.companions(knob))
        for knob in knobs:
            around.pop(knob, None)
        first, second = self.observe(around), self.observe(around)
        return self.valued(
            {k: seen for k, seen in second.items() if seen.problem is None and seen == first[k]}
        )

    def is_copy(self, knob: Knob, of: Knob) -> bool:
        """Whether a knob is another interface's: the kernel copies to these what is for all."""
        identity = self.identity(knob) if knob.subsystem == of.subsystem == "sysctl" else ""
        return identity not in ("", self.identity(of))

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name what a write to a knob may change besides."""
        return self._subsystems[knob.subsystem].companions(knob)

    def bring(
        self,
        goal: Sequence[Valued],
        *,
        written: list[Knob],
        keep_going: bool = False,
        effects: Effects | None = None,
    ) -> list[Failure]:
        """Set knobs to values and read each back; `written` collects what was written.

        Ends when all are right or when a round makes no progress, and before that at a failure
        that no other write can help. With `keep_going` everything is tried; knobs whose target is
        gone, or is another one of the same name, are left out then. `effects` collects what the
        writes changed besides.
        """
        ordered = sorted(goal, key=self._place)
        failures: dict[Knob, Failure] = {}
        before: set[frozenset[tuple[Knob, str | None]]] = set()
        while True:
            observed = self.observe(setting.knob for setting in ordered)
            off = [
                setting
                for setting in ordered
                if not self.same(setting.knob, setting.value, observed[setting.knob])
                and not (keep_going and self.gone(setting))
            ]
            if not off:
                return []
            state = frozenset((setting.knob, observed[setting.knob].value) for setting in off)
            if state in before or len(before) == _MOST_ROUNDS:
                break
            before.add(state)
            failures = {}
            for setting in off:
                failure = self._turn(setting, written, effects)
                if failure is None:
                    continue
                failures[setting.knob] = failure
                if failure.final and not keep_going:
                    return [failure]
        return [
            failures.get(setting.knob)
            or Failure(
                setting.knob,
                f"is {shown(observed[setting.knob])} again, and not {setting.value}: another "
                "setting of this change sets it",
            )
            for setting in off
        ]

    def _turn(
        self, setting: Valued, written: list[Knob], effects: Effects | None
    ) -> Failure | None:
        knob = setting.knob
        subsystem = self._subsystems[knob.subsystem]
        if self.same(knob, setting.value, subsystem.observe([knob])[knob]):
            return None
        if not self.same_target(setting):
            return Failure(knob, f"{_target(knob)} is gone, or is another one by now", final=True)
        around = self._around(knob, effects)
        before = self.observe(around)
        try:
            self._privileged.perform(subsystem.write(knob, setting.value, setting.identity))
            written.append(knob)
        except (Refused, ValueError) as error:
            return Failure(knob, f"could not be written: {plainly(error)}", final=True)
        except OSError as error:
            reason = error.strerror or str(error)
            return Failure(
                knob,
                f"could not be set to {setting.value or 'nothing'}: {reason}",
                denied=isinstance(error, PermissionError),
                final=error.errno in _FINAL,
            )
        after = subsystem.observe([knob])[knob]
        if effects is not None:
            for other, seen in self.observe(around).items():
                if seen.value != before[other].value:
                    effects.causes.setdefault(other, set()).add(knob)
        if not self.same(knob, setting.value, after):
            return Failure(knob, f"was set to {setting.value}, but reads back as {shown(after)}")
        return None

    def _around(self, knob: Knob, effects: Effects | None) -> list[Knob]:
        if effects is None:
            return []
        return [other for other in self.companions(knob) if other in effects.steady]

    def _place(self, setting: Valued) -> tuple[bool, int, str, int, str]:
        knob = setting.knob
        rank = self._subsystems[knob.subsystem].rank(knob)
        return (setting.effect, self._order.index(knob.subsystem), knob.target, rank, knob.name)


def shown(observed: Observed) -> str:
    """Write what a knob is for a person."""
    return observed.value if observed.value is not None else f"unreadable ({observed.problem})"


def _target(knob: Knob) -> str:
    return knob.target or f"what {knob.name} is of"


def plainly(error: Refused | ValueError) -> str:
    """Return an error's reason as a clause, without the words of the library that checks types."""
    if not isinstance(error, ValidationError):
        return str(error).rstrip(".")
    reason = plain(error.errors(include_url=False)[0])
    return f"{reason[:1].lower()}{reason[1:]}"
