"""What a subsystem of settings offers: to observe knobs, and to choose the write that sets each.

A knob is one thing of the kernel, or one file, that has a value. Values are text in one canonical
form, so that what was observed can be compared, kept in a journal and written back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holdfast.privileged.writes import Write


@dataclass(frozen=True, order=True)
class Knob:
    """Names one knob."""

    subsystem: str
    target: str
    """The device, interface, unit or module; empty where there is only one."""
    name: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.subsystem, self.target, self.name) if part)


@dataclass(frozen=True)
class Observed:
    """What a knob is at the moment."""

    value: str | None
    """None if the knob is not there or cannot be read."""
    problem: str | None = None
    """Why there is no value: a clause such as `does not exist on this kernel`."""
    choices: tuple[str, ...] = ()
    """Its possible values, where the kernel lists them."""
    gone: bool = False
    """There is no such thing: its device, interface or module is not there."""


class Subsystem(Protocol):
    """One kind of setting. Nothing here writes: `privileged/` does."""

    name: str

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Observe knobs; one that cannot be read has a problem instead of a value."""

    def canonical(self, knob: Knob, value: str) -> str:
        """Write a desired value as it would be observed. Raises `ValueError` with a clause."""

    def same(self, knob: Knob, desired: str, observed: str) -> bool:
        """Whether an observed value is what was desired, or what the kernel rounds it to."""

    def rounded(self, knob: Knob, value: str) -> str:
        """Return what the kernel keeps of a value, by a rule that is known."""

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Return why a value cannot be right for this knob, as a clause; None if it may be."""

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Build the write that sets a value, if the target still has this identity."""

    def identity(self, knob: Knob) -> str:
        """Return what distinguishes the target from a later one of its name, or an empty string."""

    def follow(self, knob: Knob, identity: str) -> Knob:
        """Return the knob under the name that the target of this identity has now.

        The knob itself if the target is gone or is never renamed.
        """

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Other knobs, of any subsystem, that a write to this one may change."""

    def rank(self, knob: Knob) -> int:
        """Lower ranks are written first: a scheduler before its queue's other settings."""
