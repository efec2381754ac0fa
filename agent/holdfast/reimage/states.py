"""The states of a re-imaging, and the transitions that are allowed: the only place that has them.

docs/img/reimage-states.svg is drawn from this table. What a person does about each state is in
docs/reimage.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ReimageState(StrEnum):
    """Where a machine is on its way to another image. Each has a line in docs/reimage.md."""

    IDLE = "idle"
    STAGING = "staging"
    STAGED = "staged"
    ARMED = "armed"
    REBOOTING = "rebooting"
    IMAGING = "imaging"
    """Reported by the imager alone, from a machine that has no other system at the time."""
    BOOTED = "booted"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    UNKNOWN = "unknown"
    """After a boot nothing proves which system runs; so nothing is deleted."""
    FAILED = "failed"

    @property
    def under_way(self) -> bool:
        """Whether there is an operation that has not ended."""
        return self not in (
            ReimageState.IDLE,
            ReimageState.CONFIRMED,
            ReimageState.UNCONFIRMED,
            ReimageState.UNKNOWN,
            ReimageState.FAILED,
        )


_S = ReimageState
_CANCEL = "cancel"
_OLD = "the old system is proven, or a fault"
_NEW = "the new system is proven"
_NO_PROOF = "nothing proves which system runs"
_FAILED_CHECK = "a check failed"

TRANSITIONS: Mapping[tuple[ReimageState, ReimageState], str] = MappingProxyType(
    {
        (_S.IDLE, _S.STAGING): "stage",
        (_S.STAGING, _S.STAGED): "verified",
        (_S.STAGING, _S.IDLE): _CANCEL,
        (_S.STAGING, _S.FAILED): _OLD,
        (_S.STAGED, _S.ARMED): "arm",
        (_S.STAGED, _S.IDLE): _CANCEL,
        # A boot while it was being armed: the answer got lost, or the power was cut.
        (_S.STAGED, _S.BOOTED): _NEW,
        (_S.STAGED, _S.FAILED): _OLD,
        (_S.STAGED, _S.UNKNOWN): _NO_PROOF,
        (_S.ARMED, _S.STAGED): "disarm",
        (_S.ARMED, _S.REBOOTING): "reboot",
        (_S.ARMED, _S.IDLE): _CANCEL,
        # The machine was rebooted by others.
        (_S.ARMED, _S.BOOTED): _NEW,
        (_S.ARMED, _S.FAILED): _OLD,
        (_S.ARMED, _S.UNKNOWN): _NO_PROOF,
        (_S.REBOOTING, _S.ARMED): "not rebooted",
        (_S.REBOOTING, _S.IDLE): _CANCEL,
        (_S.REBOOTING, _S.BOOTED): _NEW,
        (_S.REBOOTING, _S.FAILED): _OLD,
        (_S.REBOOTING, _S.UNKNOWN): _NO_PROOF,
        (_S.BOOTED, _S.CONFIRMED): "checks passed",
        (_S.BOOTED, _S.UNCONFIRMED): _FAILED_CHECK,
        (_S.UNCONFIRMED, _S.CONFIRMED): "confirm",
        (_S.UNCONFIRMED, _S.UNCONFIRMED): _FAILED_CHECK,
        (_S.UNKNOWN, _S.BOOTED): "confirm: it is the new one",
        (_S.UNKNOWN, _S.FAILED): "confirm: it is the old one",
        (_S.UNKNOWN, _S.CONFIRMED): "override",
        (_S.UNKNOWN, _S.UNCONFIRMED): _FAILED_CHECK,
    }
)
"""What leads from a state to another one. `imaging` is in none: only the imager reports it.

A new attempt begins in `idle`, whatever state the last one ended in.
"""


class TransitionError(RuntimeError):
    """A transition that is not in the table: a fault in this program."""


def check_transition(source: ReimageState, target: ReimageState) -> None:
    """Raise `TransitionError` unless the table allows to go from one state to the other."""
    if (source, target) not in TRANSITIONS:
        raise TransitionError(f"a re-imaging cannot go from `{source}` to `{target}`")
