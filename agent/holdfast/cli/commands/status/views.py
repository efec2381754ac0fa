"""The state of a node as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.progress import describe
from holdfast.manifests.models import ManifestDetails
from holdfast.node.models import NodeReport, RootTopology
from holdfast.operations.model import OperationSummary
from holdfast.pagecache.models import Dump
from holdfast.tuning.models import TuningState


def show_status(out: Output, answer: Mapping[str, Any]) -> None:
    """Print a line for each thing that matters, most important first."""
    problems = answer["problems"]
    node = answer["node"] and NodeReport.model_validate(answer["node"])
    host = units.printable(node.hostname) if node else "this node"
    out.line(f"{host}: {'ready' if answer['ready'] else 'NOT READY'}", _style(answer["ready"]))
    for reason in answer["reasons"]:
        out.line(f"  {units.printable(str(reason))}", "bold red")
    running = [OperationSummary.model_validate(each) for each in answer["operations"]]
    lines = {
        "dump": _dump(answer["dump"]),
        "manifest": _manifest(answer["manifest"]),
        "verification": _verification(answer["verification"]),
        "tuning": _tuning(answer["tuning"]),
        "reimage": _reimage(answer["reimage"]),
    }
    names = {
        "dump": "last dump",
        "manifest": "manifest",
        "verification": "verified",
        "tuning": "settings",
        "reimage": "re-imaging",
    }
    out.fields(
        [
            *(("root", _root(root)) for root in (node.roots if node else ())),
            *(
                (names[key], f"cannot be read: {problems[key]}" if key in problems else line)
                for key, line in lines.items()
            ),
            *(("runs", f"{describe(operation)}, {operation.id}") for operation in running),
            ("runs", "" if running else "nothing"),
            *(("note", units.printable(str(note))) for note in answer["notes"]),
        ],
        indent=2,
    )


def _style(ready: bool) -> str:
    return "bold green" if ready else "bold red"


def _root(root: RootTopology) -> str:
    name = units.printable(root.root)
    if not root.exists:
        return f"{name}, MISSING"
    if not root.size_bytes or root.available_bytes is None:
        return name
    free = f"{units.size(root.available_bytes)} free of {units.size(root.size_bytes)}"
    return f"{name}, {root.file_system}, {free}"


def _dump(found: Any) -> str:
    if found is None:
        return "none was made here"
    dump = Dump.model_validate(found)
    return (
        f"{units.age(dump.created_at)}, {units.size(dump.bytes)} of "
        f"{units.counted(dump.files, 'file')}, {dump.id}"
    )


def _manifest(found: Any) -> str:
    if found is None:
        return "none was made here"
    manifest = ManifestDetails.model_validate(found)
    return (
        f"{units.age(manifest.created_at)}, {units.size(manifest.bytes)} in "
        f"{units.counted(manifest.files, 'file')}, {manifest.id}"
    )


def _verification(found: Any) -> str:
    if found is None:
        return "never"
    operation = OperationSummary.model_validate(found)
    moment = operation.finished_at or operation.created_at
    came = operation.outcome or operation.state.value
    if came in ("ok", "running", "queued"):
        return f"{units.age(moment)}, {came}"
    return f"{units.age(moment)}, {came.upper()}; see holdfast op show {operation.id}"


def _tuning(found: Any) -> str:
    state = TuningState.model_validate(found) if found else None
    if state is None or state.profile is None:
        text = "no profile is applied"
    else:
        total = units.counted(sum(state.settings.values()), "setting")
        drift = (
            f"{len(state.drifted)} of {total} DRIFTED" if state.drifted else f"{total}, no drift"
        )
        text = f"{state.profile}, {drift}"
    if state is not None and state.problem is not None:
        text += f"; PROBLEM: {units.printable(state.problem)}"
    return text


def _reimage(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not here"
    state, reason = str(found["state"]), found.get("reason")
    text = state.upper() if state in ("failed", "unconfirmed", "unknown") else state
    return f"{text}: {units.printable(str(reason))}" if reason else text
