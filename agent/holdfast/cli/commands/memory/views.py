"""Saves and restores of roots in memory as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.phrases import name_of, took_of
from holdfast.cli.terminal.tables import Column
from holdfast.memory.models import MemoryState, RestoreResult, SaveResult

_EXAMPLES = 10
_REASONS = {
    "no-save": "there is no save of it",
    "used": "its latest save was used before",
    "too-old": "its latest save is too old",
    "files-present": "files of the save are there already",
}


def show_saved(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what was saved."""
    result = SaveResult.model_validate(operation["result"])
    took = took_of(operation, result.data_bytes)
    files = units.counted(result.files, "file")
    out.line(f"saved {units.size(result.data_bytes)} in {files}{took}")
    names = ", ".join(units.printable(name_of(name)) for name in result.left_out_names[:_EXAMPLES])
    for reason, count in result.left_out.items():
        shown = f" ({names})" if names else ""
        out.line(f"left out: {units.count(count)} {units.plain_words(reason)}{shown}", "yellow")
    for changed in result.changed[:_EXAMPLES]:
        out.line(f"changed while it was read: {units.printable(name_of(changed))}", "yellow")
    _show_holders(out, result.open_for_writing, result.uninspected_processes)
    out.line(f"save {result.save} of {units.printable(result.root)}", "green")


def show_restored(out: Output, operation: Mapping[str, Any]) -> None:
    """Print what was restored, or why nothing was."""
    result = RestoreResult.model_validate(operation["result"])
    root = units.printable(result.root)
    if not result.restored:
        reason = _REASONS.get(result.reason or "", "there is nothing to restore")
        out.line(f"nothing was restored into {root}: {reason}")
        return
    took = took_of(operation, result.data_bytes)
    files = units.counted(result.files, "file")
    out.line(f"restored {units.size(result.data_bytes)} in {files}{took}")
    if result.unmapped_owners.count:
        named = ", ".join(result.unmapped_owners.names[:_EXAMPLES])
        out.line(f"owners without a name here, kept as numbers: {units.printable(named)}", "yellow")
    if result.unset_attributes:
        count = units.counted(result.unset_attributes, "name")
        out.line(f"could not be set: extended attributes of {count}", "yellow")
    _show_holders(out, result.open_for_writing, result.uninspected_processes)
    out.line(f"{root} is as save {result.save} has it, every byte verified", "green")


def show_state(out: Output, found: Any) -> None:
    """Print the roots and the saves."""
    state = MemoryState.model_validate(found)
    if not state.roots:
        out.line("no root in memory is configured: set `memory.roots`")
    for root in state.roots:
        if root.problem is not None:
            out.line(f"{units.printable(root.root)}: {root.problem}", "yellow")
        else:
            used = f"{units.size(root.used_bytes)} of {units.size(root.size_bytes)}"
            out.line(f"{units.printable(root.root)}: {used} used")
    if not state.saves:
        out.line("there is no save")
    else:
        out.table(
            [
                "save",
                "~root",
                Column("files", right=True, rank=2),
                Column("data", right=True),
                Column("made", rank=1),
                "state",
            ],
            [
                [
                    save.id,
                    units.printable(save.root),
                    units.count(save.files),
                    units.size(save.data_bytes),
                    units.age(save.created_at),
                    "fresh" if save.used_at is None else "used",
                ]
                for save in state.saves
            ],
            styles={"fresh": "green"},
        )
    for name in state.damaged:
        out.line(f"damaged: {units.printable(name)}", "bold red")


def _show_holders(out: Output, holders: Sequence[str], uninspected: int) -> None:
    for holder in holders:
        out.line(f"open for writing all the same: {units.printable(holder)}", "yellow")
    if uninspected:
        count = units.counted(uninspected, "process", "processes")
        out.line(f"the open files of {count} could not be seen", "yellow")
