"""Watches an operation to its end, and decides with the person what a Ctrl-C means."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

from holdfast.cli.run.runs import Run
from holdfast.cli.terminal.errors import CliError
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.progress import view_for

Choice = Literal["cancel", "leave", "watch"]


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM while it was doing the work itself."""


class Left(Exception):  # noqa: N818 - not an error: the person chose to stop watching
    """The operation is no longer watched, and continues."""


def follow(
    run: Run,
    out: Output,
    *,
    started_here: bool,
    on_update: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Show a run until it ends, and answer its final state.

    Ctrl-C asks on a terminal. Elsewhere it cancels what this command started, since nobody would
    watch it, and leaves alone what another one started. Raises `Left` when the run continues.
    """
    cancelling = False
    while True:
        try:
            return _watch(run, out, on_update)
        except KeyboardInterrupt as signal:
            if cancelling and run.can_leave:
                raise Left from None
            terminated = isinstance(signal, Terminated)
            choice = "cancel" if terminated else _choose(run, out, started_here=started_here)
            if choice == "leave":
                raise Left from None
            if choice == "cancel":
                cancelling = True
                out.note(f"holdfast: cancelling {f'operation {run.id}' if run.can_leave else 'it'}")
                run.cancel()


def _watch(
    run: Run, out: Output, on_update: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any]:
    from holdfast.operations.model import Operation  # noqa: PLC0415

    last: dict[str, Any] | None = None
    with view_for(out) as view:
        for last in run.updates():
            view.update(Operation.model_validate(last))
            if on_update is not None:
                on_update(last)
    if last is None:
        raise CliError(f"operation {run.id} reported nothing; see the daemon's log")
    return last


def _choose(run: Run, out: Output, *, started_here: bool) -> Choice:
    if not out.interactive:
        return "cancel" if started_here or not run.can_leave else "leave"
    question = "[c]ancel, [l]eave it running, [w]atch on? "
    if not run.can_leave:
        question = "[c]ancel, [w]atch on? "
    while True:
        try:
            print(f"\r{question}", end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            answer = ""
        if not answer:  # end of input, or Ctrl-C once more: stop asking, do the least harm
            print(file=sys.stderr)
            return "leave" if run.can_leave else "cancel"
        match answer.strip().lower()[:1]:
            case "c":
                return "cancel"
            case "w":
                return "watch"
            case "l" if run.can_leave:
                return "leave"
