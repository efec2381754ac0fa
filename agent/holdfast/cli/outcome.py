"""Starts an operation for a command, waits for it, and prints how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

from holdfast.cli.errors import CliError, ExitCode
from holdfast.cli.follow import Left, follow
from holdfast.cli.output import Output
from holdfast.cli.runs import RemoteRun, Run
from holdfast.cli.session import Session

Render = Callable[[Output, dict[str, Any]], None]


def perform(
    session: Session, path: str, kind: str, body: dict[str, Any], render: Render, *, wait: bool
) -> dict[str, Any] | None:
    """Start an operation and see it through, by the daemon or, with `--local`, in this process.

    `render` prints the result of one that succeeded, which is returned; nothing is where it goes
    on. Raises `CliError` for any other outcome.
    """
    given = {key: value for key, value in body.items() if value is not None}
    if session.local:
        return finish(session, session.work.start(kind, given), render)
    operation = session.api.post(path, given)
    if wait:
        return finish(session, RemoteRun(session.api, operation), render)
    if session.out.as_json:
        session.out.json(operation)
    else:
        session.out.line(operation["id"])
        session.out.hint(f"to see how it goes: holdfast op watch {operation['id']}")
    return None


def finish(session: Session, run: Run, render: Render) -> dict[str, Any] | None:
    """Watch a run that this command started, and print how it ended."""
    out = session.out
    try:
        operation = follow(run, out, started_here=True)
    except Left:
        out.note(f"operation {run.id} goes on; to see how: holdfast op watch {run.id}")
        return None
    conclude(out, operation, render)
    return operation


def conclude(out: Output, operation: dict[str, Any], render: Render) -> None:
    """Print the end of an operation. Raises `CliError` unless it succeeded."""
    if out.as_json:
        out.json(operation)
    state = operation["state"]
    if state == "succeeded":
        if not out.as_json:
            render(out, operation)
        return
    raise CliError(why(operation))


def judge(operation: Mapping[str, Any] | None) -> None:
    """End the command with the exit code for differences if an operation found any."""
    if operation is not None and operation["result"].get("ok") is False:
        raise typer.Exit(ExitCode.DIFFERENCES)


def why(operation: dict[str, Any]) -> str:
    """Say in one sentence why an operation did not succeed."""
    error = operation.get("error") or {}
    detail = str(error.get("detail") or error.get("title") or "").rstrip(".")
    state, name = operation["state"], f"operation {operation['id']} ({operation['kind']})"
    if state == "cancelled":
        return f"{name} was cancelled" + (f": {detail}" if detail else "")
    if state == "interrupted":
        return f"{name} was interrupted: {detail or 'the daemon stopped'}; start it again"
    return f"{detail}; this was {name}" if detail else f"{name} failed"
