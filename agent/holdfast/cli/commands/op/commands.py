"""`holdfast op`: the operations of the daemon."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from holdfast.cli.registration.arguments import span_of
from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import operation_ids
from holdfast.cli.run.session import Session
from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import CliError, ExitCode

app = group(
    "op",
    "See and cancel operations: the long work that the daemon does.",
    lines=["holdfast op list", "holdfast op watch 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)


class OutcomeName(StrEnum):
    """What an operation that succeeded came to."""

    OK = "ok"
    DIFFERS = "differs"
    PARTIAL = "partial"


class StateName(StrEnum):
    """The states of an operation."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


OperationId = Annotated[
    str,
    typer.Argument(
        metavar="OPERATION",
        help="An operation's id, the beginning of one, or `latest`.",
        autocompletion=operation_ids,
    ),
]


@command(
    app,
    "list",
    lines=[
        "holdfast op list",
        "holdfast op list --kind pagecache.load --state failed",
        "holdfast op list --not-ok",
        "holdfast op list --json | jq '.operations[].state'",
    ],
)
def list_operations(
    session: Session,
    *,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only this kind, e.g. pagecache.load.")
    ] = None,
    state: Annotated[StateName | None, typer.Option(help="Only those in this state.")] = None,
    outcome: Annotated[
        OutcomeName | None, typer.Option(help="Only those that succeeded with this outcome.")
    ] = None,
    not_ok: Annotated[
        bool,
        typer.Option(
            "--not-ok",
            help="Only those that ended otherwise than well: they did not succeed, found "
            "differences, or are partial.",
        ),
    ] = False,
    since: Annotated[
        float | None,
        typer.Option(
            parser=span_of, metavar="TIME", help="Only those created in this last time, e.g. 2h."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="NEXT", help="Continue the list whose `next` this was."),
    ] = None,
) -> None:
    """List operations, newest first.

    Ends with 0 whatever their outcomes are.
    """
    answer = session.api.get(
        "/v1/operations",
        kind=kind,
        state=state and state.value,
        outcome=outcome and outcome.value,
        not_ok="true" if not_ok else None,
        since=_ago(since),
        limit=limit,
        cursor=cursor,
    )
    if session.out.as_json:
        session.out.json(answer)
        return
    from holdfast.cli.commands.op.views import show_operations

    show_operations(session.out, answer)
    if answer.get("next"):
        session.out.hint(f"there are more: --limit, or --cursor {answer['next']}")


@command(
    app,
    "show",
    lines=["holdfast op show 01JDCB7X7V0Q1B5Y3F8M2R9T4K", "holdfast op show latest"],
)
def show(session: Session, operation: OperationId) -> None:
    """Show one operation: what was asked, how far it is, how it ended.

    Ends with 3 if it is a check that found differences, and with 0 otherwise.
    """
    from holdfast.cli.run.outcome import judge

    answer = _get(session, operation)
    if session.out.as_json:
        session.out.json(answer)
    else:
        from holdfast.cli.commands.op.views import show_operation

        show_operation(session.out, answer)
    judge(answer)


@command(
    app,
    "watch",
    lines=[
        "holdfast op watch 01JDCB7X7V0Q1B5Y3F8M2R9T4K",
        "holdfast op watch 01JDCB7X7V0Q1B5Y3F8M2R9T4K --json | jq -c .progress",
    ],
)
def watch(session: Session, operation: OperationId) -> None:
    """Watch an operation until it ends. With --json, one line for each update.

    Ends with 0 if the operation succeeded, with 3 if it is a check that found differences, with 4
    if it continues unwatched, and with 1 otherwise. Ctrl-C in a pipe stops only the watching.
    """
    from holdfast.cli.commands.op.views import show_outcome
    from holdfast.cli.run.follow import Left, follow
    from holdfast.cli.run.outcome import judge, why
    from holdfast.cli.run.runs import RemoteRun

    out = session.out
    run = RemoteRun(session.api, _get(session, operation))
    try:
        last = follow(
            run, out, started_here=False, on_update=out.json_line if out.as_json else None
        )
    except Left:
        out.note(f"operation {run.id} continues")
        raise typer.Exit(ExitCode.LEFT_RUNNING) from None
    if last["state"] != "succeeded":
        raise CliError(why(last), problem=last.get("error"))
    if not out.as_json:
        show_outcome(out, last)
    judge(last)


@command(app, "cancel", lines=["holdfast op cancel 01JDCB7X7V0Q1B5Y3F8M2R9T4K"])
def cancel(session: Session, operation: OperationId) -> None:
    """Ask an operation to stop. Asking again, or after its end, does no harm."""
    operation = _get(session, operation)["id"]
    answer = session.api.post(f"{_path(operation)}/cancel")
    if session.out.as_json:
        session.out.json(answer)
    elif answer["state"] in {"queued", "running"}:
        session.out.line(f"cancelling operation {units.printable(operation)}")
    else:
        session.out.line(f"operation {units.printable(operation)}: {answer['state']}")


def _ago(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    from datetime import timedelta

    from holdfast.operations.model import format_time, now

    return format_time(now() - timedelta(seconds=seconds))


def _get(session: Session, operation: str) -> dict[str, Any]:
    answer: dict[str, Any] = session.api.get(_path(operation))
    return answer


def _path(operation: str) -> str:
    from urllib.parse import quote

    return f"/v1/operations/{quote(operation, safe='')}"
