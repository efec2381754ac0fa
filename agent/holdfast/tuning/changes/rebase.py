"""Adapts the record to this boot, and to interfaces that were renamed."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.tuning.changes.store import Change, State, StoredKnob
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.resolve import is_file


def rebase(state: State, boot_id: str, panel: Panel) -> State:
    """Return the state adapted to this boot; unchanged if it was recorded in this boot.

    A boot takes the kernel's values back, and may give a device's name to another. A knob that is
    as it was last set was set again at boot, by a file of ours: what it was before stays known.
    Any other is as the boot made it: there is nothing of it to go back to.
    """
    if state.boot_id == boot_id or not (state.history or state.left):
        return state
    last: dict[Knob, Change] = {
        change.knob: change for entry in state.history for change in entry.changes
    }
    seen = panel.observe(last)
    held = {
        knob
        for knob, change in last.items()
        if is_file(knob) or panel.same(knob, change.after, seen[knob])
    }
    rebased = state.model_copy(deep=True)
    rebased.left = [setting for setting in state.left if is_file(setting.knob)]
    for number, entry in enumerate(rebased.history):
        changes = [
            change.model_copy(update={"identity": panel.identity(change.knob)})
            for change in entry.changes
            if change.knob in held
        ]
        rebased.history[number] = entry.model_copy(update={"changes": changes})
    return rebased


def renamed(state: State, panel: Panel) -> bool:
    """Give recorded settings the names that their targets have now; whether any was changed."""
    changed = False

    def follow(stored: Sequence[StoredKnob]) -> None:
        nonlocal changed
        for setting in stored:
            now = panel.follow(setting.knob, setting.identity) if setting.identity else setting.knob
            if now != setting.knob:
                setting.target, setting.name = now.target, now.name
                changed = True

    actives = [state.active, *(entry.previous for entry in state.history)]
    for active in actives:
        follow(active.settings if active is not None else ())
    for entry in state.history:
        follow(entry.changes)
        follow([cause for change in entry.changes for cause in change.causes])
    follow(state.left)
    return changed
