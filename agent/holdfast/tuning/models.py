"""Requests and responses about tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.operations.model import Timestamp
from holdfast.operations.results import OperationResult, Outcome
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.records import PROFILE_PATTERN


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PlanRequest(_Request):
    """Which profile to plan for."""

    profile: str | None = Field(
        default=None,
        max_length=64,
        pattern=PROFILE_PATTERN,
        description="A profile's name; without it, the profile that is applied now.",
    )
    persist: bool = Field(
        default=False,
        description="Also write sysctl.d, udev and tmpfiles.d files, which set values at boot.",
    )


class ApplyRequest(PlanRequest):
    """Which profile to apply."""

    plan: str | None = Field(
        default=None,
        max_length=64,
        description="A plan's id: apply only if exactly that plan would be made now.",
    )


class RollbackRequest(_Request):
    """How far to go back."""

    to: Literal["last", "first"] = Field(
        default="last",
        description="To the state before the last apply, or to that before the first.",
    )


Action = Literal["none", "set", "restore", "skip", "impossible"]
Need = Literal["reopen", "restart"]


class Setting(BaseModel, defer_build=True):
    """One setting of this machine: what a profile wants, and its actual value."""

    name: str = Field(examples=["vm.max_map_count"])
    subsystem: str = Field(examples=["sysctl"])
    target: str = Field(description="Device, interface, unit or module; else empty.")
    desired: str | None
    observed: str | None = Field(description="Null if it is not there, or cannot be read.")
    rounded: str | None = Field(
        default=None,
        description="What the kernel keeps of `desired`, where that is not all of it.",
    )
    previous: str | None = Field(
        default=None, description="What it was before it was written; null if it was not."
    )
    action: Action = Field(
        description="`none`: is right. `set`: would be written. `restore`: the profile does not "
        "have it, so what was there before comes back. `skip`: not on this machine, and only "
        "wanted where it is. `impossible`: see `note`; keeps the plan from being applied."
    )
    note: str | None = None
    source: str | None = Field(default=None, description="Why this value, as the profile states.")
    profile: str | None = Field(default=None, description="The profile that sets it.")
    defined_at: str | None = Field(default=None, examples=["cassandra.toml:12"])
    conflicts: list[str] = Field(
        default_factory=list, description="Others on this machine that set it otherwise."
    )
    needs: Need | None = Field(
        default=None,
        description="What else it takes: files to be opened again, or a service restarted.",
    )


class Plan(BaseModel, defer_build=True):
    """What applying a profile would do. Nothing was changed."""

    plan: str = Field(description="Identifies this plan: the same if made again unchanged.")
    profile: str = Field(description="The profile's name.")
    policy: Literal["report", "enforce"] = Field(description="What is done about drift.")
    persist: bool = Field(description="Whether files set the values at boot, too.")
    applicable: bool = Field(description="Whether nothing is `impossible`.")
    changes: int = Field(description="How many settings would be written.")
    settings: list[Setting] = Field(description="Every setting of the profile.")
    notes: list[str] = Field(description="What in the profile means nothing here, and why.")


class LeftSetting(BaseModel, defer_build=True):
    """A setting that could not be reverted. It is tried again at each opportunity."""

    name: str
    subsystem: str
    target: str
    before: str = Field(description="What it was before, and is to be again.")
    observed: str | None
    reason: str = Field(description="Why it could not be, as a clause.")
    since: Timestamp

    @property
    def knob(self) -> Knob:
        """The knob."""
        return Knob(self.subsystem, self.target, self.name)


class Applied(OperationResult, Plan):
    """What was applied: every setting read back. `action` is what was done."""

    written: int = Field(description="How many settings were written; each was read back.")
    left: list[LeftSetting] = Field(
        default_factory=list,
        description="Settings of a former profile that could not be reverted.",
    )

    @property
    def outcome(self) -> Outcome:
        """Judge it: partial if something of a former profile stays."""
        return Outcome.PARTIAL if self.left else Outcome.OK


class RolledBack(OperationResult):
    """What was restored."""

    profile: str | None = Field(description="The profile that is in force now; null for none.")
    written: int = Field(description="How many settings were written.")
    settings: list[Setting] = Field(description="The settings that were changed.")
    notes: list[str] = Field(description="What else there is to know.")
    left: list[LeftSetting] = Field(
        default_factory=list, description="Settings that could not be reverted."
    )

    @property
    def outcome(self) -> Outcome:
        """Judge it: partial if something stays as it was set."""
        return Outcome.PARTIAL if self.left else Outcome.OK


class AppliedEntry(BaseModel, defer_build=True):
    """An apply that can be rolled back."""

    profile: str
    applied_at: Timestamp
    changes: int


class Event(BaseModel, defer_build=True):
    """Something that happened to the settings."""

    time: Timestamp
    kind: Literal[
        "applied",
        "rolled-back",
        "recovered",
        "drifted",
        "settled",
        "enforced",
        "contested",
        "hotplugged",
        "failed",
    ]
    message: str
    profile: str | None = None
    settings: list[str] = Field(default_factory=list, description="Which settings, by name.")


class DriftedSetting(BaseModel, defer_build=True):
    """A setting that is not as applied."""

    name: str
    subsystem: str
    target: str
    desired: str
    observed: str | None
    since: Timestamp = Field(description="When it was first seen.")
    contested: bool = Field(
        description="Another program keeps changing it: it is not written back any more."
    )
    note: str | None = None


class TuningState(BaseModel, defer_build=True):
    """The settings in force and whether they still are as applied."""

    profile: str | None = Field(description="The profile that is applied; null for none.")
    policy: Literal["report", "enforce"] | None
    applied_at: Timestamp | None
    persist: bool
    profile_changed: bool = Field(description="Its file has changed since it was applied.")
    settings: dict[str, int] = Field(description="How many are watched, by subsystem.")
    drifted: list[DriftedSetting]
    checked_at: Timestamp | None = Field(description="When drift was last looked for.")
    history: list[AppliedEntry] = Field(description="Newest first; what can be rolled back.")
    events: list[Event] = Field(description="Newest first; the last ones of this daemon.")
    left: list[LeftSetting] = Field(
        default_factory=list,
        description="Settings that could not be reverted; retried at each opportunity.",
    )
    problem: str | None = Field(
        description="What keeps settings from being whole: a revert that could not be finished."
    )


class ProfileSummary(BaseModel, defer_build=True):
    """A profile that could be applied."""

    name: str
    description: str
    builtin: bool
    extends: list[str]
    policy: Literal["report", "enforce"] | None
    applied: bool
    error: str | None = Field(description="Why it cannot be used; null if it can.")


class ProfileList(BaseModel, defer_build=True):
    """The profiles of this machine."""

    profiles: list[ProfileSummary]


class ProfileValue(BaseModel, defer_build=True):
    """A value as a profile states it, before this machine is inspected."""

    name: str
    subsystem: str
    target: str
    select: dict[str, list[str] | bool] | None
    value: str | int | bool | dict[str, str | int | bool] | None = Field(
        description="Null where an inherited value is taken away."
    )
    when: str | None
    only_if_present: bool
    source: str | None
    profile: str
    defined_at: str


class ProfileDetails(ProfileSummary):
    """A profile with all that it sets, inherited values included."""

    lineage: list[str] = Field(description="The profiles it consists of, parents first.")
    variables: dict[str, str]
    values: list[ProfileValue]
