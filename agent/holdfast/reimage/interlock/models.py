"""The answers of the gates before a reboot, as the API shows and the attempt remembers them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, Field

from holdfast.operations.model import RequestError, Slug, Timestamp


class Gate(StrEnum):
    """What is asked before this machine goes down, in this order."""

    WINDOW = "window"
    FLEET_LOCK = "fleet-lock"
    BEFORE_REBOOT = "before-reboot"
    INHIBITORS = "inhibitors"


class GateReport(BaseModel, defer_build=True):
    """The answer of one gate."""

    gate: Gate
    passed: bool
    overridden: bool = Field(default=False, description="It said no, and was not heeded: `force`.")
    detail: str = Field(description="A sentence; of a command, with the end of what it wrote.")
    at: Timestamp


class FleetLockReport(BaseModel, defer_build=True):
    """The lock that this node holds, or may hold: of what was asked no answer may have arrived."""

    url: str
    id: str
    group: str
    since: Timestamp
    operation: str = Field(description="Of the attempt that it is held for.")
    problem: str | None = Field(
        default=None, description="Why it could not be released yet, if it should be."
    )


class InterlockReport(BaseModel, defer_build=True):
    """What is asked before this machine goes down."""

    asking: Gate | None = Field(description="What is being asked now.")
    gates: list[GateReport] = Field(
        description="What was answered when this attempt last wanted to reboot, in order."
    )
    fleet_lock: FleetLockReport | None = Field(description="Null while none is held.")
    window_open: bool = Field(description="True as well where there is no window.")
    window_changes: Timestamp | None = Field(
        description="When the window that is open has closed, or the next one opens; null where "
        "there is no window, or none opens within years."
    )


class HeldError(RequestError):
    """A gate refuses: the machine stays up. `retry_after` is whole seconds, if that is known."""

    def __init__(self, gate: Gate, detail: str, retry_after: int | None = None) -> None:
        super().__init__(Slug.HELD_BACK, detail, gate=gate.value)
        self.gate = gate
        self.retry_after = retry_after
