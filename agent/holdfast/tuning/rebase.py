"""After a boot: what was observed before it holds only where the boot brought it back."""

from __future__ import annotations

from holdfast.tuning.knobs import Knob
from holdfast.tuning.resolve import is_file
from holdfast.tuning.store import Change, State
from holdfast.tuning.transaction import Panel


def rebase(state: State, boot_id: str, panel: Panel) -> State:
    """Return the state as it is to be read in this boot; the same one if it is of this boot.

    A boot takes the kernel's values back, and may give a device's name to another. A knob that is
    as it was last set was set again at boot, by a file of ours: what it was before stays known.
    Any other is as the boot made it: there is nothing of it to go back to.
    """
    if state.boot_id == boot_id or not state.history:
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
    for number, entry in enumerate(rebased.history):
        changes = [
            change.model_copy(update={"identity": panel.identity(change.knob)})
            for change in entry.changes
            if change.knob in held
        ]
        rebased.history[number] = entry.model_copy(update={"changes": changes})
    return rebased
