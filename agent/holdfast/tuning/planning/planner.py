"""Compares what a profile wants with what is there: the plan, and the writes it would take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.allowed import AllowList
from holdfast.tuning.changes.baseline import unwanted
from holdfast.tuning.changes.store import InForce, State, Valued
from holdfast.tuning.changes.transaction import Panel
from holdfast.tuning.config_files import persist as files
from holdfast.tuning.config_files.owners import Owners
from holdfast.tuning.models import Action, Need, Plan, Setting
from holdfast.tuning.planning import openfiles
from holdfast.tuning.planning.inventory import Inventory
from holdfast.tuning.planning.knobs import Knob, Observed, Subsystem
from holdfast.tuning.planning.resolve import Resolved, Wanted, is_file, resolve
from holdfast.tuning.profile.layers import Mistake
from holdfast.tuning.profile.library import Library
from holdfast.tuning.subsystems.limits import running_limits
from holdfast.tuning.subsystems.persistence import summary_of

_SHOWN = 120  # characters of a file's content


@dataclass(frozen=True)
class Draft:
    """A plan, and what carrying it out takes."""

    plan: Plan
    resolved: Resolved
    goal: list[Valued]
    """What would be written."""
    keep: list[Valued]
    """What is right and has to stay so."""
    restore: list[Valued]
    """What nobody wants now, with what it was before."""
    peers: set[Knob]
    """See `Journal.change`."""
    in_force: list[InForce]
    mistakes: list[Mistake]
    """Why it cannot be applied."""


class Planner:
    """Makes plans; changes nothing."""

    def __init__(
        self,
        roots: Sequence[Path],
        library: Library,
        subsystems: Mapping[str, Subsystem],
        panel: Panel,
        allowed: AllowList,
    ) -> None:
        self._allowed = allowed
        self._roots = roots
        self._library = library
        self._subsystems = subsystems
        self._panel = panel

    def resolve(self, profile: str) -> tuple[Resolved, Inventory]:
        """Work out what a profile means on this machine now.

        Raises `RequestError` and `ProfileError`.
        """
        machine = Inventory(self._roots)
        return resolve(self._library.lineage(profile), machine, self._subsystems), machine

    def draft(self, profile: str, state: State, *, persist: bool) -> Draft:
        """Plan to put a profile in force. Raises `RequestError` and `ProfileError`."""
        resolved, machine = self.resolve(profile)
        present, rows, mistakes = self._present(resolved)
        notes = [*resolved.notes]
        contents: dict[Knob, str] = {}
        if persist:
            contents, more = files.files_for(profile, present, machine)
            notes += more
        wanted = {setting.knob: setting.value for setting in present} | contents
        baseline = unwanted(state, wanted, self._panel)
        seen = self._panel.observe([*wanted, *(setting.knob for setting in baseline.settings)])
        owners = Owners()
        details = {setting.knob: setting for setting in present}
        goal: list[Valued] = []
        keep: list[Valued] = []
        in_force: list[InForce] = []
        for knob in contents:
            problem = seen[knob].problem
            if seen[knob].value is None and problem is not None:
                mistakes.append(Mistake(knob.target, 0, "", problem))
        for knob, value in wanted.items():
            right = self._panel.same(knob, value, seen[knob])
            valued = self._valued(knob, value)
            (keep if right else goal).append(valued)
            if right and value == "" and is_file(knob):
                keep.pop()
                continue
            row = self._row(
                knob,
                value,
                seen[knob],
                details.get(knob),
                action="none" if right else "set",
                owners=owners,
                machine=machine,
            )
            rows.append(row)
            if value != "" or not is_file(knob):
                in_force.append(
                    InForce(
                        **valued.model_dump(),
                        source=row.source or "",
                        profile=row.profile or profile,
                        defined_at=row.defined_at or "",
                    )
                )
        restore = [
            setting
            for setting in baseline.settings
            if not self._panel.same(setting.knob, setting.value, seen[setting.knob])
        ]
        rows += [
            self._row(
                setting.knob,
                setting.value,
                seen[setting.knob],
                None,
                action="restore",
                owners=None,
                machine=machine,
            )
            for setting in restore
        ]
        notes += baseline.notes
        order = list(self._subsystems)
        rows.sort(key=lambda row: (order.index(row.subsystem), row.target, row.name))
        plan = Plan(
            plan=_identify(resolved, rows, persist=persist),
            profile=profile,
            policy=resolved.policy,
            persist=persist,
            applicable=not mistakes,
            changes=len(goal) + len(restore),
            settings=rows,
            notes=[*notes, *owners.notes],
        )
        return Draft(plan, resolved, goal, keep, restore, baseline.peers, in_force, mistakes)

    def _present(self, resolved: Resolved) -> tuple[list[Wanted], list[Setting], list[Mistake]]:
        """Separate settings that can be set from those that are not here, or cannot be right."""
        seen = self._panel.observe(setting.knob for setting in resolved.wanted)
        present: list[Wanted] = []
        rows: list[Setting] = []
        mistakes: list[Mistake] = []
        for setting in resolved.wanted:
            observed = seen[setting.knob]
            problem = self._panel.problem(setting.knob, setting.value, observed)
            skipped = observed.value is None and setting.only_if_present
            refused = None if skipped else self._refused(setting.knob, setting.value)
            if problem is None and refused is None:
                present.append(setting)
                continue
            note = f"{setting.spot.place}: {refused or problem}"
            rows.append(
                Setting(
                    name=setting.knob.name,
                    subsystem=setting.knob.subsystem,
                    target=setting.knob.target,
                    desired=setting.value,
                    observed=observed.value,
                    action="skip" if skipped else "impossible",
                    note=note,
                    source=setting.spot.comment or None,
                    profile=setting.profile,
                    defined_at=setting.spot.place,
                )
            )
            if not skipped:
                where = f" to {setting.knob.target}" if setting.knob.target else ""
                why = refused.rstrip(".") if refused is not None else f"it {problem}"
                mistakes.append(setting.spot.mistake(f"cannot be applied{where}: {why}"))
        return present, rows, mistakes

    def _refused(self, knob: Knob, value: str) -> str | None:
        """Return a sentence on why root would not write this; None if it would."""
        subsystem = self._subsystems[knob.subsystem]
        try:
            write = subsystem.write(knob, value, self._panel.identity(knob))
        except (ValueError, OSError):
            return None  # observing it reports what is wrong
        return self._allowed.refusal(write)

    def _row(
        self,
        knob: Knob,
        value: str,
        observed: Observed,
        wanted: Wanted | None,
        *,
        action: Action,
        owners: Owners | None,
        machine: Inventory,
    ) -> Setting:
        note, needs = self._needs(knob, value, observed, action, machine)
        rounded = self._panel.rounded(knob, value)
        if rounded != value and note is None:
            note = f"the kernel rounds {value} to {rounded}"
        source = (wanted.spot.comment or None) if wanted is not None else None
        if wanted is None and action != "restore":
            source = "asked for with persist"
        return Setting(
            name=knob.name,
            subsystem=knob.subsystem,
            target=knob.target,
            desired=_short(knob, value),
            observed=_short(knob, observed.value),
            rounded=rounded if rounded != value else None,
            action=action,
            note=note,
            source=source,
            profile=wanted.profile if wanted is not None else None,
            defined_at=wanted.spot.place if wanted is not None else None,
            conflicts=owners.conflicts(knob, value) if owners is not None else [],
            needs=needs,
        )

    def _needs(
        self, knob: Knob, value: str, observed: Observed, action: Action, machine: Inventory
    ) -> tuple[str | None, Need | None]:
        note = "was so before; this profile does not set it" if action == "restore" else None
        if knob.subsystem == "limits":
            running = running_limits(knob.target, knob.name)
            if running is not None and running != value:
                return f"{knob.target} runs with {running} until it is restarted", "restart"
            return note, None
        if knob.name == "read_ahead_kb" and action in ("set", "restore"):
            mounts = machine.devices[knob.target].mounts if knob.target in machine.devices else ()
            listed = []
            for mount in sorted(mounts):
                opened = self._panel.open_files(mount)
                if opened is None:
                    listed.append(f"files open on {mount}, which cannot be counted,")
                elif opened:
                    listed.append(f"{openfiles.described(opened)} on {mount}")
            if listed:
                old = f"keep {observed.value} KiB until opened again"
                return f"{'; '.join(listed)} {old}", "reopen"
        return note, None

    def _valued(self, knob: Knob, value: str) -> Valued:
        return Valued(
            subsystem=knob.subsystem,
            target=knob.target,
            name=knob.name,
            identity=self._panel.identity(knob),
            value=value,
        )


def _identify(resolved: Resolved, rows: Sequence[Setting], *, persist: bool) -> str:
    said = [
        resolved.digest,
        persist,
        [
            (row.subsystem, row.target, row.name, row.desired, row.observed, row.action)
            for row in rows
        ],
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _short(knob: Knob, value: str | None) -> str | None:
    """Describe a file only by whether it is there, and its size."""
    return value if knob.subsystem != "persistence" or value is None else summary_of(value)
