"""What could not be reverted, for a person and for the API."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.tuning.changes.store import State
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.models import LeftSetting

_MOST_NAMED = 5


def left_settings(state: State, panel: Panel) -> list[LeftSetting]:
    """Return the current list of what could not be reverted."""
    observed = panel.observe(remains.knob for remains in state.left)
    return [
        LeftSetting(
            name=remains.name,
            subsystem=remains.subsystem,
            target=remains.target,
            before=remains.value,
            observed=observed[remains.knob].value,
            reason=remains.reason,
            since=remains.since,
        )
        for remains in state.left
    ]


def problem_of_left(left: Sequence[LeftSetting]) -> str | None:
    """Return sentences on what could not be reverted; None if everything could."""
    if not left:
        return None
    named = "; ".join(
        f"{' '.join(part for part in (remains.subsystem, remains.target, remains.name) if part)} "
        f"should be {remains.before or 'empty'} again: it {remains.reason}"
        for remains in left[:_MOST_NAMED]
    )
    more = f"; and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return (
        f"Not everything could be reverted: {named}{more}. It is retried at each start, "
        "apply, rollback and from time to time; other settings are not affected."
    )
