"""Changes of settings as the process that makes them is asked for them, and its reports.

A request has names and values, never text that another program interprets, and never what a
setting was before: that is observed, and recorded, where the change is made.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.tuning.records import Active, StoredKnob, Valued

_Operation = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_MOST_KNOBS = 4096


class _Request(BaseModel, defer_build=True):
    model_config = ConfigDict(extra="forbid")


class TuneChange(_Request):
    """Put a profile in force: set knobs to values, all of them or none.

    What another profile set, and this one does not have, is restored from the record.
    """

    do: Literal["tune_change"] = "tune_change"
    how: Literal["apply", "follow"]
    """A step that can be rolled back, or settings of devices that appeared since."""
    operation: _Operation
    based_on: int
    """The revision of the record that the values were worked out from."""
    active: Active
    """What is in force once it is done."""
    goal: Annotated[list[Valued], Field(max_length=_MOST_KNOBS)]
    keep: Annotated[list[Valued], Field(max_length=_MOST_KNOBS)] = []
    """What is right already and has to stay so."""


class TuneRollback(_Request):
    """Restore the settings from before the last apply, or before the first."""

    do: Literal["tune_rollback"] = "tune_rollback"
    operation: _Operation
    to: Literal["last", "first"]


class TuneRecover(_Request):
    """Finish what the end of a process cut short: go back, or commit what had been verified."""

    do: Literal["tune_recover"] = "tune_recover"


class TuneEnforce(_Request):
    """Write settings back that are in force and have drifted."""

    do: Literal["tune_enforce"] = "tune_enforce"
    knobs: Annotated[list[StoredKnob], Field(max_length=_MOST_KNOBS)]


TuneRequest = TuneChange | TuneRollback | TuneRecover | TuneEnforce


class FailedKnob(BaseModel, defer_build=True):
    """A knob that did not become what it should."""

    knob: StoredKnob
    reason: str
    denied: bool = False


class Restored(BaseModel, defer_build=True):
    """A knob that a rollback was about."""

    knob: Valued
    """With what it was before."""
    observed: str | None
    """What it is now."""


class Recovered(BaseModel, defer_build=True):
    """A change that was cut short."""

    finished: bool
    """Completed, or else reverted."""
    knobs: list[StoredKnob]


class TuneReport(BaseModel, defer_build=True):
    """What was done."""

    written: list[StoredKnob] = []
    conflict: str | None = None
    """A sentence: nothing was written, as things are not as the request expects."""
    failure: FailedKnob | None = None
    """The change was not made, and what had been written was reverted except for what is `left`."""
    reverted: list[StoredKnob] = []
    left: list[FailedKnob] = []
    recovered: Recovered | None = None
    settled: list[StoredKnob] = []
    """What could not be reverted before, and now was, or is gone."""
    restored: list[Restored] = []
    notes: list[str] = []
