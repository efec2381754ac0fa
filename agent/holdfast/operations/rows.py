"""Rows of the record of operations, and the models that they are."""

from __future__ import annotations

import json
from typing import Any

from holdfast.operations.model import Operation, OperationSummary, Problem, ProgressReport, State
from holdfast.operations.results import Outcome

LISTED_PARAMS_BYTES = 4 << 10
_HEAD = "id, kind, state, outcome, actor, traceparent, created_at, started_at, finished_at"
COLUMNS = f"{_HEAD}, params, progress, result, error, params_apart, result_apart"
SUMMARY_COLUMNS = (
    f"seq, {_HEAD}, CASE WHEN length(params) <= {LISTED_PARAMS_BYTES} AND NOT params_apart"
    " THEN params END, progress, error"
)


def operation_of(row: tuple[Any, ...]) -> Operation:
    """Make an operation of the columns from `id` to `error`."""
    id_, kind, state, outcome, actor, traceparent, *times, params, progress, result, error = row
    created, started, finished = times
    return Operation(
        id=id_,
        kind=kind,
        state=State(state),
        outcome=outcome and Outcome(outcome),
        actor=actor,
        traceparent=traceparent,
        created_at=created,
        started_at=started,
        finished_at=finished,
        params=json.loads(params),
        progress=ProgressReport.model_validate_json(progress),
        result=None if result is None else json.loads(result),
        error=None if error is None else Problem.model_validate_json(error),
    )


def summary_of(row: tuple[Any, ...]) -> OperationSummary:
    """Make a summary of the columns in `SUMMARY_COLUMNS`."""
    _, id_, kind, state, outcome, actor, traceparent, *times, params, progress, error = row
    created, started, finished = times
    return OperationSummary(
        id=id_,
        kind=kind,
        state=State(state),
        outcome=outcome and Outcome(outcome),
        actor=actor,
        traceparent=traceparent,
        created_at=created,
        started_at=started,
        finished_at=finished,
        params=None if params is None else json.loads(params),
        progress=ProgressReport.model_validate_json(progress),
        error=None if error is None else Problem.model_validate_json(error),
    )


def to_text(value: Any) -> str:
    """Write JSON as the record has it."""
    return json.dumps(value, separators=(",", ":"))
