"""Starts an operation for a command, waits for it, and prints how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import typer

from holdfast.cli.run.follow import Left, follow
from holdfast.cli.run.runs import LOCAL_ACTOR, RemoteRun, Run
from holdfast.cli.run.session import Session
from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import CliError, ExitCode
from holdfast.cli.terminal.output import Output

Render = Callable[[Output, dict[str, Any]], None]


def perform(
    session: Session,
    kind: str,
    body: dict[str, Any],
    render: Render,
    *,
    wait: bool,
    enough: Enough | None = None,
) -> dict[str, Any] | None:
    """Start an operation and see it through, by the daemon or, with `--local`, in this process.

    `render` prints the result of one that succeeded, which is returned; None where it continues.
    Raises `CliError` for any other outcome, and `typer.Exit` if the person left it running.
    `enough` ends the wait early.
    """
    given = {key: value for key, value in body.items() if value is not None}
    run = session.backend.start(kind, given)
    if wait or not isinstance(run, RemoteRun):
        return finish(session, run, render, enough)
    if session.out.as_json:
        session.out.json(run.operation)
    else:
        session.out.line(run.id)
        session.out.hint(f"to see how it goes: holdfast op watch {run.id}")
    return None


class Enough:
    """Ends the wait for an operation once a share of it is done, or after a time.

    The share is of the expected hits where the operation estimates them, else of the bytes.
    The operation itself continues, if it can without this process.
    """

    def __init__(
        self,
        share: float | None = None,
        seconds: float | None = None,
        *,
        until: Callable[[Mapping[str, Any]], bool] | None = None,
        why: str = "",
    ) -> None:
        self._share = share
        self._seconds = seconds
        self._until = until
        self._begun = time.monotonic()
        self.why = why
        """Filled in once it is enough."""
        self.met = False

    def __call__(self, operation: Mapping[str, Any]) -> None:
        """Check an update. Raises `Left` once it is enough."""
        progress = operation["progress"]
        done, expected = progress["bytes_done"], progress["bytes_expected"]
        passed = time.monotonic() - self._begun
        hits = progress.get("expected_hits")
        share = hits if hits is not None else done / expected if expected else None
        if operation["state"] != "running":
            return
        if self._until is not None and self._until(operation):
            self.met = True
            raise Left
        if self._share is not None and share is not None and share >= self._share:
            so_far = _so_far(hits, done, expected)
            self.why = f"{so_far} after {units.duration(passed)}"
            self.met = True
            raise Left
        if self._seconds is not None and passed >= self._seconds:
            so_far = _so_far(hits, done, expected)
            self.why = f"the deadline of {units.duration(self._seconds)} is over, at {so_far}"
            self.met = True
            raise Left


def _so_far(hits: float | None, done: int, expected: int | None) -> str:
    if hits is not None:
        return f"{units.percent(hits, 1)} of the expected hits"
    return f"{units.percent(done, expected)} of the bytes" if expected else units.size(done)


def finish(
    session: Session, run: Run, render: Render, enough: Enough | None = None
) -> dict[str, Any] | None:
    """Watch a run that this command started, and print how it ended."""
    out = session.out
    try:
        operation = follow(run, out, started_here=True, on_update=enough)
    except Left:
        met = enough is not None and enough.met
        prefix = f"{enough.why}: " if enough is not None and enough.why else ""
        if not run.can_leave:
            run.cancel()
            out.note(f"{prefix}the work ends here")
            for _ in run.updates():
                pass
        else:
            out.note(
                f"{prefix}operation {run.id} continues; to follow it: holdfast op watch {run.id}"
            )
        if not met:
            raise typer.Exit(ExitCode.LEFT_RUNNING) from None
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
    raise CliError(why(operation), problem=operation.get("error"))


def judge(operation: Mapping[str, Any] | None) -> None:
    """End the command with the exit code for differences if an operation is a check that failed.

    A check that proved less than it was asked to is `partial` and not ok, which is no success
    either. Other work that is `partial` did what could be done, and ends as one that is ok.
    """
    if operation is None:
        return
    result = operation.get("result") or {}
    if operation.get("outcome") == "differs" or result.get("ok") is False:
        raise typer.Exit(ExitCode.DIFFERENCES)


def why(operation: dict[str, Any]) -> str:
    """Return a sentence on why an operation did not succeed."""
    error = operation.get("error") or {}
    detail = str(error.get("detail") or error.get("title") or "").rstrip(".")
    state, name = operation["state"], f"operation {operation['id']} ({operation['kind']})"
    if operation["actor"] == LOCAL_ACTOR:
        # It is in no daemon's record: an id would lead nowhere.
        name = f"{operation['kind']}, done by this command itself,"
        if detail and state == "failed":
            return detail
    if state == "cancelled":
        return f"{name} was cancelled" + (f": {detail}" if detail else "")
    if state == "interrupted":
        return f"{name} was interrupted: {detail or 'the daemon stopped'}; start it again"
    return f"{detail}; this was {name}" if detail else f"{name} failed"
