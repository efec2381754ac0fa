"""Plans and states of re-imaging as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import when_of
from holdfast.cli.terminal.tables import Column
from holdfast.privileged.boot.models import LifeboatReport
from holdfast.privileged.trial.models import TrialOutcome, TrialRow
from holdfast.reimage.interlock.models import InterlockReport
from holdfast.reimage.models import (
    Check,
    ImageSummary,
    Machine,
    ReimagePlan,
    ReimageResult,
    ReimageStatus,
)
from holdfast.reimage.states import ReimageState

_RESULTS: Mapping[TrialOutcome, str] = {
    "passed": "passed",
    "warning": "warning",
    "failed": "FAILED",
    "not_tried": "not tried",
}
_STYLES = {
    ReimageState.FAILED: "bold red",
    ReimageState.UNCONFIRMED: "bold red",
    ReimageState.UNKNOWN: "bold red",
    ReimageState.ARMED: "bold yellow",
    ReimageState.REBOOTING: "bold yellow",
    ReimageState.CONFIRMED: "green",
}


def show_plan(out: Output, plan: ReimagePlan) -> None:
    """Print the image, every disk and what becomes of it, the boot entry, and the steps."""
    _image(out, plan.image)
    _machine(out, plan, entry=True)
    _trial(out, plan.trial)
    out.heading("Steps")
    for number, step in enumerate(plan.steps, 1):
        out.line(f"  {number}. {units.printable(step)}")
    for note in plan.notes:
        out.note(f"note: {units.printable(note)}", "dim")
    out.line()
    if plan.ok:
        out.line("nothing is in the way; nothing was changed", "green")
    else:
        _blocked(out, plan.blocked)


def show_status(out: Output, status: ReimageStatus) -> None:
    """Print the state and why it is that, then what matters for what comes next."""
    out.line(f"state  {status.state.value}", _STYLES.get(status.state, "bold"))
    if status.reason is not None:
        out.line(f"  {units.printable(status.reason)}", "bold red")
    _image(out, status.image)
    out.fields([("running", status.image_id or ""), ("operation", status.operation or "")])
    if status.fetched:
        came = (
            f"{units.size(supplier.bytes)} from {supplier.address}" for supplier in status.fetched
        )
        out.fields([("fetched", units.printable(", ".join(came)))])
    if status.previous is not None:
        kept = status.previous
        text = f"{kept.name}, {units.size(kept.size_bytes)}, of {when_of(kept.when)}"
        out.fields([("kept", units.printable(text))])
    if status.rollback_of is not None:
        out.fields([("rolls back", status.rollback_of)])
    if status.rollback_at is not None:
        out.line(f"  rolls back at {when_of(status.rollback_at)} unless confirmed", "bold yellow")
    if status.checks:
        _checks(out, status.checks)
    if status.state in (ReimageState.IDLE, ReimageState.STAGED, ReimageState.ARMED):
        _machine(out, status, entry=status.state is ReimageState.ARMED)
        _trial(out, status.trial)
    for note in (*status.notes, *(status.imager.notes if status.imager else ())):
        out.note(f"note: {units.printable(note)}", "dim")
    if status.history:
        out.heading("History")
        out.table(
            ("when", "change", "~why"),
            [
                (
                    when_of(step.at),
                    f"{step.previous.value} -> {step.state.value}",
                    units.printable(step.why),
                )
                for step in status.history[-8:]
            ],
            indent=2,
            header=False,
        )
    if status.blocked and status.state is ReimageState.IDLE:
        out.line()
        _blocked(out, status.blocked)
    _interlock(out, status.interlock)


def _interlock(out: Output, report: InterlockReport | None) -> None:
    """Print what was asked before a reboot, and what is held."""
    if report is None or not (report.gates or report.asking or report.fleet_lock):
        return
    out.heading("Before a reboot")
    rows = [
        (
            "~" if gate.overridden else "=" if gate.passed else "!",
            gate.gate.value,
            units.printable(gate.detail),
        )
        for gate in report.gates
    ]
    if report.asking is not None:
        rows.append(("…", report.asking.value, "is being asked"))
    if report.fleet_lock is not None:
        lock = report.fleet_lock
        held = f"held by {lock.id} in group {lock.group} since {units.moment(lock.since)}"
        rows.append(("", "lock", units.printable(f"{held}. {lock.problem or ''}".rstrip())))
    out.table(
        ("", "name", "~detail"),
        rows,
        indent=2,
        header=False,
        styles={"=": "green", "!": "bold red", "~": "yellow"},
    )


def show_rehearsal(out: Output, status: ReimageStatus) -> None:
    """Print what a step would write, in the state that it does not change."""
    _image(out, status.image)
    _machine(out, status, entry=True)
    _trial(out, status.trial)
    if status.boot is not None and status.state is ReimageState.STAGED:
        out.heading("Writes")
        for file in status.boot.files:
            size = "" if file.size_bytes is None else f"  {units.size(file.size_bytes)}"
            out.line(f"  {units.printable(file.path)}{size}")
    if status.carried:
        kept = ", ".join(dict.fromkeys(file.name for file in status.carried))
        out.line(f"  carried over: {units.printable(kept)}")
    for note in status.notes:
        out.note(f"note: {units.printable(note)}", "dim")
    out.line()
    out.line("nothing is in the way; nothing was changed", "green")


def show_result(out: Output, operation: Mapping[str, Any]) -> None:
    """Print how a re-imaging ended."""
    result = ReimageResult.model_validate(operation["result"])
    _image(out, result.image)
    _checks(out, result.checks)
    seconds = result.confirmed_seconds
    took = f" {units.duration(seconds)} after the reboot was ordered" if seconds else ""
    out.line(f"confirmed{took}; this system is {result.image_id or 'without an image id'}", "green")


def _image(out: Output, image: ImageSummary | None) -> None:
    if image is None:
        return
    out.fields(
        [
            ("image", units.printable(f"{image.name} {image.image_version}")),
            (
                "size",
                f"{units.size(image.size_bytes)}, of which {units.size(image.mapped_bytes)} are "
                f"not zeros; {units.size(image.content_bytes)} to fetch",
            ),
            ("boots", ", ".join(image.boot_modes)),
            ("signed by", units.printable(image.signed_by or "")),
        ]
    )


def _machine(out: Output, machine: Machine, *, entry: bool) -> None:
    if machine.disks:
        out.heading("Disks")
        out.table(
            ("disk", Column("serial", rank=1), ">size", "~what becomes of it"),
            [
                (
                    disk.path,
                    disk.serial or "-",
                    units.size(disk.size_bytes),
                    "WRITTEN OVER" if disk.target else " ".join(disk.excluded) or "not touched",
                )
                for disk in machine.disks
            ],
            indent=2,
        )
    for lost in machine.loses:
        out.line(f"  lost with it: {units.printable(lost)}", "yellow")
    if machine.boot is not None and entry:
        loader = machine.boot.loader or "none that is known"
        out.heading(f"Boot: {machine.boot.mode}, {loader}")
        for line in (machine.boot.entry or "").splitlines():
            out.line(f"  {line}")
    for need in machine.space:
        free, needed = units.size(need.available_bytes), units.size(need.needed_bytes)
        out.line(f"  space for {need.what}: {needed} of {free} free")
    if machine.lifeboat is not None:
        out.line(f"  lifeboat: {_lifeboat(machine.lifeboat)}")
    for unknown in machine.unknown:
        out.note(f"note: {units.printable(unknown)}", "dim")


def _lifeboat(found: LifeboatReport) -> str:
    """Return where it is, in words."""
    reason = "" if found.reason is None else f" {units.printable(found.reason)}"
    size = "" if found.length_bytes is None else units.size(found.length_bytes)
    at = "" if found.offset_bytes is None else f" at {found.offset_bytes}"
    match found.kind:
        case "none":
            return f"none.{reason}"
        case "tail":
            return f"{size} without a partition{at}.{reason}"
        case "file":
            return f"{size} in a file of this system{at}.{reason}"


def _trial(out: Output, rows: Sequence[TrialRow]) -> None:
    if not rows:
        return
    out.heading("Trial of the new root")
    out.table(
        ("tried", "result", "~what was found, and what to do"),
        [
            (
                row.check.replace("_", " "),
                _RESULTS[row.outcome],
                units.printable(f"{row.detail} {row.advice or ''}".rstrip()),
            )
            for row in rows
        ],
        indent=2,
        styles={
            "passed": "green",
            "warning": "yellow",
            "FAILED": "bold red",
            "not tried": "yellow",
        },
    )


def _checks(out: Output, checks: Sequence[Check]) -> None:
    out.heading("Checks of the new system")
    out.table(
        ("", "name", "~detail"),
        [
            ("=" if check.passed else "!", check.name, units.printable(check.detail))
            for check in checks
        ],
        indent=2,
        header=False,
        styles={"=": "green", "!": "bold red"},
    )


def _blocked(out: Output, blocked: Sequence[str]) -> None:
    out.line("REFUSED:", "bold red")
    for reason in blocked:
        out.line(f"  ! {units.printable(reason)}", "red")
