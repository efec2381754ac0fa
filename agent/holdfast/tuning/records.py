"""What is recorded about settings: those in force, what they were before, a change under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from holdfast.operations.model import Timestamp
from holdfast.tuning.planning.knobs import Knob

VERSION = 1
PROFILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_MOST_ENTRIES = 32
_MOST_COMMITTED = 64

_Name = Annotated[str, Field(max_length=256)]
_Text = Annotated[str, Field(max_length=4096)]


class StoredKnob(BaseModel, defer_build=True):
    """Names a knob in a file or a request."""

    subsystem: _Name
    target: _Name
    name: _Name
    identity: _Name = ""
    """Distinguishes the target from another of the same name."""

    @property
    def knob(self) -> Knob:
        """The knob."""
        return Knob(self.subsystem, self.target, self.name)


class Valued(StoredKnob):
    """A knob with a value it had or should have."""

    value: Annotated[str, Field(max_length=1 << 18)]
    effect: bool = False
    """It changed with the write of another knob, so it is restored after that one."""


class Change(StoredKnob):
    """A knob that an apply changed."""

    before: str
    after: str
    causes: list[StoredKnob] = Field(default_factory=list)
    """What was written when this one changed with it; empty if it was written itself."""


class Left(Valued):
    """A setting that could not be reverted, with its previous value."""

    reason: str
    """A clause."""
    since: Timestamp


class InForce(Valued):
    """A setting that a profile put in force, and why."""

    source: _Text = ""
    profile: _Name
    defined_at: _Text


class Active(BaseModel, defer_build=True):
    """The profile that is applied, as it was then."""

    profile: Annotated[str, Field(pattern=PROFILE_PATTERN)]
    policy: Literal["report", "enforce"]
    applied_at: Timestamp
    persist: bool
    digest: Annotated[str, Field(max_length=128)]
    settings: list[InForce]


class Entry(BaseModel, defer_build=True):
    """One apply that can be rolled back."""

    profile: str
    applied_at: Timestamp
    previous: Active | None
    """What was in force before."""
    changes: list[Change]


class State(BaseModel, defer_build=True):
    """What is in force, and how it came to be."""

    version: int = VERSION
    revision: int = 0
    """Grows with each change of this record."""
    boot_id: str = ""
    """Of the boot in which the values of kernel knobs were observed."""
    active: Active | None = None
    history: list[Entry] = Field(default_factory=list)
    """Oldest first."""
    committed: list[str] = Field(default_factory=list)
    """The last operations that came to their end, oldest first."""
    left: list[Left] = Field(default_factory=list)
    """What could not be reverted; retried at each opportunity."""

    def push(self, entry: Entry) -> None:
        """Add an apply. The oldest two become one, so that the way to the first stays."""
        self.history.append(entry)
        if len(self.history) > _MOST_ENTRIES:
            first, second, *rest = self.history
            changes = _joined(first.changes, second.changes)
            self.history = [first.model_copy(update={"changes": changes}), *rest]

    def merge(self, changes: Sequence[Change]) -> None:
        """Add changes to the last apply; what a knob was before that stays."""
        if not self.history:
            return
        last = self.history[-1]
        self.history[-1] = last.model_copy(update={"changes": _joined(last.changes, changes)})

    def note_committed(self, operation: str) -> None:
        """Remember that an operation came to its end."""
        self.committed = [*self.committed, operation][-_MOST_COMMITTED:]


def _joined(earlier: Sequence[Change], later: Sequence[Change]) -> list[Change]:
    """Join the changes of two steps. Another target of the same name is another one."""
    joined = {(change.knob, change.identity): change for change in earlier}
    for change in later:
        key = (change.knob, change.identity)
        before = joined[key].before if key in joined else change.before
        joined[key] = change.model_copy(update={"before": before})
    return list(joined.values())


class Pending(BaseModel, defer_build=True):
    """A change under way."""

    version: int = VERSION
    operation: str
    boot_id: str
    phase: Literal["writing", "verified"]
    before: list[Valued]
    """What every knob was that may be written."""
    around: list[Valued] = Field(default_factory=list)
    """What all others were that writing may change besides."""
    after: State | None = None
    """What is in force once it is done; known when all writes were verified."""
