"""Plans, settings and profiles as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import when_of
from holdfast.cli.terminal.tables import Column
from holdfast.tuning.models import (
    Applied,
    LeftSetting,
    Plan,
    ProfileDetails,
    ProfileList,
    RolledBack,
    Setting,
    TuningState,
)

_SIGNS = {"set": "~", "restore": "<", "none": "=", "skip": "-", "impossible": "!"}
_STYLES = {"~": "yellow", "<": "cyan", "!": "bold red", "-": "dim"}
_TOLD = ("set", "restore", "impossible")
_EVENTS = 5
_SOURCE = 30  # cells that the text of a source needs to be readable


def show_plan(out: Output, plan: Plan, *, everything: bool) -> None:
    """Print what would change, a line each under its device or subsystem."""
    wanted = len(plan.settings)
    shown = [
        setting
        for setting in plan.settings
        if everything or setting.action in ("set", "restore", "impossible")
    ]
    _show_settings(out, shown)
    for note in plan.notes:
        out.note(f"note: {units.printable(note)}", "dim")
    impossible = sum(setting.action == "impossible" for setting in plan.settings)
    if impossible:
        out.line(
            f"profile {plan.profile} CANNOT BE APPLIED: {units.counted(impossible, 'setting')} "
            "cannot be set here (marked !)",
            "bold red",
        )
    elif plan.changes:
        out.line(
            f"profile {plan.profile} would change {plan.changes} of "
            f"{units.counted(wanted, 'setting')}",
            "bold",
        )
    else:
        out.line(f"profile {plan.profile}: all {units.counted(wanted, 'setting')} right", "green")


def show_applied(out: Output, answer: Mapping[str, Any]) -> None:
    """Print what was written."""
    applied = Applied.model_validate(answer)
    _show_settings(
        out, [setting for setting in applied.settings if setting.action in ("set", "restore")]
    )
    total = units.counted(len(applied.settings), "setting")
    if applied.written:
        out.line(
            f"profile {applied.profile} applied: {applied.written} of {total} written, all read "
            "back",
            "green",
        )
    else:
        out.line(f"profile {applied.profile} applied: all {total} were right already", "green")
    _show_left(out, applied.left)
    out.hint("to go back: holdfast tune rollback")


def show_rolled_back(out: Output, answer: Mapping[str, Any]) -> None:
    """Print what was restored."""
    result = RolledBack.model_validate(answer)
    _show_settings(
        out, [setting for setting in result.settings if setting.action == "restore"], was=False
    )
    for note in result.notes:
        out.note(f"note: {units.printable(note)}")
    now = f"profile {result.profile} is in force" if result.profile else "no profile is in force"
    style = "bold red" if result.left else "green"
    out.line(f"rolled back, {units.counted(result.written, 'setting')} written; {now}", style)
    _show_left(out, result.left)


def _show_left(out: Output, left: Sequence[LeftSetting]) -> None:
    """Print what could not be reverted."""
    for remains in left:
        what = " ".join(part for part in (remains.target, remains.name) if part)
        out.line(
            units.printable(
                f"NOT reverted: {what} should be {remains.before}: it {remains.reason}"
            ),
            "bold red",
        )


def show_state(out: Output, state: TuningState) -> None:
    """Print what is in force and what has drifted."""
    if state.problem is not None:
        out.line(f"PROBLEM: {units.printable(state.problem)}", "bold red")
    if state.profile is None:
        out.line("no profile is applied")
        out.hint("to see what one would do: holdfast tune plan PROFILE")
        return
    settings = ", ".join(f"{count} {name}" for name, count in state.settings.items())
    changed = (
        "its file has changed since: see `holdfast tune plan`" if state.profile_changed else ""
    )
    out.fields(
        [
            ("profile", f"{state.profile} (policy: {state.policy})"),
            ("applied", when_of(state.applied_at) if state.applied_at else ""),
            ("", changed if state.profile_changed else ""),
            ("at boot", "set by files as well" if state.persist else ""),
            ("settings", settings or "none on this machine"),
            ("history", f"{units.counted(len(state.history), 'apply', 'applies')} to roll back"),
        ]
    )
    if state.drifted:
        out.heading("Drifted")
        out.table(
            (
                Column("subsystem", rank=3),
                Column("target", rank=2),
                "name",
                "~desired",
                "~observed",
                Column("since", rank=1),
                "~note",
            ),
            [
                (
                    drift.subsystem,
                    units.printable(drift.target),
                    drift.name,
                    units.printable(drift.desired),
                    "-" if drift.observed is None else units.printable(drift.observed),
                    units.age(drift.since),
                    "contested: another program sets it" if drift.contested else drift.note or "",
                )
                for drift in state.drifted
            ],
            indent=2,
        )
    if state.events:
        out.heading("Lately")
        out.table(
            (">when", "~what"),
            [
                (units.age(event.time), f"{event.kind}: {units.printable(event.message)}")
                for event in state.events[:_EVENTS]
            ],
            indent=2,
            header=False,
        )
    out.line()
    total = sum(state.settings.values())
    if state.drifted:
        out.line(f"{len(state.drifted)} of {total} settings DRIFTED", "bold red")
        out.hint(f"to write them back: holdfast tune apply {state.profile}")
    else:
        out.line(f"all {units.counted(total, 'setting')} as applied", "green")


def show_profiles(out: Output, profiles: ProfileList) -> None:
    """Print the profiles, and which is applied."""
    out.table(
        ("", "profile", Column("from", rank=1), "~what"),
        [
            (
                "*" if profile.applied else "",
                profile.name,
                "holdfast" if profile.builtin else "here",
                profile.description
                if profile.error is None
                else f"UNUSABLE: {units.printable(profile.error)}",
            )
            for profile in profiles.profiles
        ],
    )


def show_profile(out: Output, profile: ProfileDetails) -> None:
    """Print what a profile sets, with the source of each value."""
    out.fields(
        [
            ("profile", profile.name),
            ("what", profile.description),
            ("consists of", " + ".join(profile.lineage)),
            ("policy", profile.policy or ""),
        ]
    )
    out.line()
    out.table(
        (
            "setting",
            "~for",
            "~value",
            Column("set at", rank=1),
            Column("source", text=True, least=_SOURCE),
        ),
        [
            (
                f"{entry.subsystem} {entry.name}",
                _selection(entry.select) or entry.target,
                "(taken away)" if entry.value is None else _value(entry.value),
                entry.defined_at,
                entry.source or "",
            )
            for entry in profile.values
        ],
    )


def _show_settings(out: Output, settings: Iterable[Setting], *, was: bool = True) -> None:
    for (subsystem, target), some in groupby(
        settings, lambda setting: (setting.subsystem, setting.target)
    ):
        rows = list(some)
        out.line(f"{subsystem} {units.printable(target)}".rstrip(), "bold")
        out.table(
            ("", "name", "change", Column("source", text=True, least=_SOURCE)),
            [(_SIGNS[row.action], row.name, _change(row, was=was), _source(row)) for row in rows],
            indent=2,
            header=False,
            styles=_STYLES,
            notes=[
                [
                    units.printable(text)
                    for text in (row.note, *(f"conflict: {who}" for who in row.conflicts))
                    if text
                ]
                for row in rows
            ],
        )


def _change(setting: Setting, *, was: bool) -> str:
    desired = "-" if setting.desired is None else setting.desired
    observed = setting.previous or ("-" if setting.observed is None else setting.observed)
    if setting.action == "none" or not was or observed == desired:
        text = desired
    elif setting.action in ("set", "restore"):
        text = f"{observed} -> {desired}"
    else:
        text = f"{desired} wanted"
    return units.printable(text)


def _source(setting: Setting) -> str:
    return (
        f"# {units.printable(setting.source)}"
        if setting.source and setting.action != "none"
        else ""
    )


def _selection(select: Mapping[str, list[str] | bool] | None) -> str:
    if not select:
        return ""
    return " ".join(
        f"{name}={'|'.join(value) if isinstance(value, list) else str(value).lower()}"
        for name, value in select.items()
    )


def _value(value: str | int | bool | dict[str, str | int | bool]) -> str:
    if isinstance(value, dict):
        return " ".join(
            str(member) if name == "kind" else f"{name} {member}" for name, member in value.items()
        )
    return str(value)
