"""The rows of an apply's and a rollback's result."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.tuning.changes.change_requests import knobs_of
from holdfast.tuning.changes.requests import TuneReport
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.models import LeftSetting, RolledBack, Setting
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.planner import Draft


def observed_settings(panel: Panel, draft: Draft) -> list[Setting]:
    """Return the plan's rows with what is observed now."""
    rows = draft.plan.settings
    knobs = [Knob(row.subsystem, row.target, row.name) for row in rows]
    seen = panel.observe(
        knob for knob, row in zip(knobs, rows, strict=True) if row.subsystem != "persistence"
    )
    return [
        row.model_copy(
            update={
                "observed": seen[knob].value if knob in seen else row.desired,
                "previous": row.observed if row.action in ("set", "restore") else None,
            }
        )
        for knob, row in zip(knobs, rows, strict=True)
    ]


def rolled_back(report: TuneReport, profile: str | None, left: Sequence[LeftSetting]) -> RolledBack:
    """Build the result of a rollback; the content of files is not shown."""
    written = knobs_of(report.written)
    settings = []
    for restored in report.restored:
        knob = restored.knob
        shown = knob.subsystem != "persistence"
        settings.append(
            Setting(
                name=knob.name,
                subsystem=knob.subsystem,
                target=knob.target,
                desired=knob.value if shown else None,
                observed=restored.observed if shown else None,
                action="restore" if knob.knob in written else "none",
            )
        )
    return RolledBack(
        profile=profile,
        written=len(written),
        settings=settings,
        notes=report.notes,
        left=list(left),
    )
