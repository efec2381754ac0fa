"""What settings were before, worked out from the record of what was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.tuning.changes.store import Change, Entry, State, Valued
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.planning.couplings import excluded_by
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.resolve import is_file


@dataclass
class Baseline:
    """What there is to restore."""

    settings: list[Valued] = field(default_factory=list)
    peers: set[Knob] = field(default_factory=set)
    """What did not change, but may with the way back."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is gone, and so is not restored."""


def before(entries: Sequence[Entry], panel: Panel) -> Baseline:
    """Return what was there before all of these applies."""
    return _collected(entries, {}, panel)


def unwanted(state: State, wanted: Mapping[Knob, str], panel: Panel) -> Baseline:
    """Return what was there before the first apply, of all that is not wanted now.

    Without what the kernel sets along with what is wanted.
    """
    return _collected(state.history, wanted, panel)


def _collected(entries: Sequence[Entry], wanted: Mapping[Knob, str], panel: Panel) -> Baseline:
    excluded = {
        Knob("sysctl", "", other)
        for knob, value in wanted.items()
        if knob.subsystem == "sysctl" and (other := excluded_by(knob.name, value)) is not None
    }
    latest: dict[tuple[Knob, str], Change] = {}
    found: dict[tuple[Knob, str], Valued] = {}
    baseline = Baseline()
    for entry in reversed(entries):
        for change in entry.changes:
            key = (change.knob, change.identity)
            if change.causes and change.before == change.after:
                baseline.peers.add(change.knob)
                continue
            latest.setdefault(key, change)
            found[key] = Valued(
                **change.model_dump(include={"subsystem", "target", "name", "identity"}),
                value=change.before,
                effect=bool(change.causes),
            )
    for key, stored in found.items():
        bound = any(cause.knob in wanted for cause in latest[key].causes)
        if stored.knob in wanted or stored.knob in excluded or bound:
            continue
        if (
            is_file(stored.knob)
            and (seen := panel.observe([stored.knob])[stored.knob]).value is None
        ):
            baseline.notes.append(f"{stored.target}: {seen.problem}.")
            continue
        # What went along with a setting, as parameters with a scheduler, may be back with it.
        if not panel.same_target(stored) if stored.effect else panel.gone(stored):
            what = (
                stored.name if stored.subsystem == "sysctl" else f"{stored.name} of {stored.target}"
            )
            whose = (
                "its interface"
                if stored.subsystem == "sysctl" and stored.identity
                else stored.target
            )
            baseline.notes.append(f"{what} was not restored: {whose or 'it'} is gone.")
            continue
        baseline.settings.append(stored)
    return baseline
