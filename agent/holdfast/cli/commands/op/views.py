"""Operations as a person reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.progress import amounts, describe, share
from holdfast.cli.terminal.tables import Column
from holdfast.operations.model import Operation, OperationSummary, now

_RESULTS = {
    "pagecache.dump": ("pagecache", "show_dumped"),
    "pagecache.load": ("pagecache", "show_loaded"),
    "pagecache.evict": ("pagecache", "show_evicted"),
    "manifest.build": ("manifest", "show_built"),
    "manifest.verify": ("manifest", "show_verified"),
    "manifest.compare": ("manifest", "show_compared"),
}
"""The function that shows the result of a kind, in the views of the group that starts it."""
_WIDE = 110  # cells of a terminal on which all columns fit
STYLES = {
    "differs": "red",
    "failed": "red",
    "partial": "yellow",
    "interrupted": "yellow",
    "ok": "green",
}
"""How states and outcomes look; one that succeeded is only as green as its outcome."""


def show_operations(out: Output, answer: Mapping[str, Any]) -> None:
    """Print operations as a table."""
    operations = [OperationSummary.model_validate(entry) for entry in answer["operations"]]
    if not operations:
        out.line("no operations")
        return
    bars = [_bar(out, operation) for operation in operations]
    live = any(bars)
    # On a narrow terminal one word shows both the state and the outcome.
    apart = out.width is None or out.width >= _WIDE
    out.table(
        [
            "operation",
            "kind",
            "state",
            *(["outcome"] if apart else []),
            Column("done", right=True, rank=1),
            *([Column("", rank=2)] if live else []),
            Column("created", rank=3),
            Column("took", right=True, rank=4),
            Column("by", rank=5),
        ],
        [
            (
                operation.id,
                operation.kind,
                *_states(operation, apart=apart),
                _done(operation),
                *([bar] if live else []),
                units.age(operation.created_at),
                _took(operation),
                units.printable(operation.actor),
            )
            for operation, bar in zip(operations, bars, strict=True)
        ],
        styles=STYLES,
    )


def _states(operation: OperationSummary, *, apart: bool) -> tuple[str, ...]:
    """Return the state and the outcome, or the outcome of what succeeded alone."""
    if apart:
        return operation.state.value, operation.outcome or ""
    return (operation.outcome or operation.state.value,)


def show_operation(out: Output, answer: Mapping[str, Any]) -> None:
    """Print everything about one operation."""
    operation = Operation.model_validate(answer)
    out.line(f"{operation.kind} {operation.id}", "bold")
    out.fields(
        [
            ("state", operation.state.value),
            ("outcome", operation.outcome or ""),
            ("asked by", units.printable(operation.actor)),
            ("created", units.moment(operation.created_at)),
            ("took" if operation.state.final else "for", _took(operation)),
            ("progress", "" if operation.state.final else describe(operation)),
            ("asked for", _compact(operation.params)),
            ("error", "" if operation.error is None else operation.error.detail),
        ],
        indent=2,
    )
    if operation.result is not None:
        out.line()
        show_outcome(out, answer)


def show_outcome(out: Output, answer: Mapping[str, Any]) -> None:
    """Print the result of an operation that succeeded, as its own command would."""
    known = _RESULTS.get(answer["kind"])
    if known is not None:
        group, name = known
        render: Callable[[Output, Mapping[str, Any]], None] = getattr(
            import_module(f"holdfast.cli.commands.{group}.views"), name
        )
        render(out, answer)
    else:
        # A newer daemon knows kinds that this client does not.
        out.line(json.dumps(answer["result"], indent=2))


def _done(operation: OperationSummary) -> str:
    if operation.state.value == "succeeded":
        return units.size(operation.progress.bytes_done)
    return amounts(operation.progress)


def _bar(out: Output, operation: OperationSummary) -> str:
    known = share(operation.progress)
    if known is None or operation.state.final:
        return ""
    return units.bar(*known, unicode=out.unicode)


def _took(operation: OperationSummary) -> str:
    if operation.started_at is None:
        return ""
    if operation.finished_at is None:
        return units.duration((now() - operation.started_at).total_seconds())
    return units.duration((operation.finished_at - operation.started_at).total_seconds())


def _compact(params: Mapping[str, Any]) -> str:
    given = {key: value for key, value in params.items() if value is not None}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in given.items())
