"""`holdfast-rollout`: plan, run, show and command a roll."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from holdfast_rollout import __version__
from holdfast_rollout.board import LiveBoard
from holdfast_rollout.inventory import Inventory, InventoryError, read_inventory
from holdfast_rollout.planning import plan_text
from holdfast_rollout.views.metrics import registry_of
from holdfast_rollout.views.page import served
from holdfast_rollout.views.terminal import TerminalView, table
from holdfast_rollout.world import real_context

OK, FAILED, USAGE, STOPPED = 0, 1, 2, 3
"""Exit codes: 3 is a roll that waits for an operator."""
_POLL_SECONDS = 0.25
_QUIET_SECONDS = 3.0
"""A roll that is resumed shows for a moment that it was stopped."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Re-image a fleet of nodes that run holdfast: canary, then zone after zone.",
)
_File = Annotated[Path, typer.Argument(help="The inventory: TOML, or YAML.", show_default=False)]
_Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="HOLDFAST_ROLLOUT_DATABASE",
        help="postgresql://… or sqlite:///PATH; by default ROLL.sqlite beside the inventory.",
        show_default=False,
    ),
]


class _UsageError(Exception):
    """What was asked for cannot be done; the message is for the terminal."""


@app.command()
def plan(file: _File) -> None:
    """Show the order of a roll, and what bounds it; calls no node."""
    sys.stdout.write(plan_text(read_inventory(file)))


@app.command()
def run(
    file: _File,
    database: _Database = None,
    page: Annotated[
        str | None, typer.Option(help="ADDRESS:PORT of the page and /metrics; loopback alone.")
    ] = None,
    plain: Annotated[bool, typer.Option(help="A line for each change instead of a view.")] = False,
) -> None:
    """Run a roll to its end, from its beginning or from where it was.

    Ends with 0 if all nodes are done, 1 if it ended otherwise, and 3 if it stopped and waits for
    `resume`. Ctrl-C leaves it where it is: the same command continues it.
    """
    inventory = read_inventory(file)
    engine = _engine()
    board = LiveBoard(inventory)
    context = real_context(inventory, board)
    leave = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave.set())
    with served(page, board, registry_of(board)) as address:

        def watch(ended: Callable[[], bool]) -> int:
            # A node that ended in an earlier process has no workflow that would show it.
            with _rolls(file, inventory, database) as rolls:
                for name, members in rolls.status(inventory)[1].items():
                    board.recall(name, members)
            shown_plain = plain or not sys.stdout.isatty()
            with TerminalView(board, plain=shown_plain, address=address):
                return _wait(board, ended, leave)

        code = engine.run_roll(_url(database, file, inventory), inventory, context, watch)
    raise typer.Exit(code)


def _wait(board: LiveBoard, ended: Callable[[], bool], leave: threading.Event) -> int:
    """Wait until a roll is over, or needs an operator; return the exit code."""
    quiet_since: float | None = None
    while not leave.wait(_POLL_SECONDS):
        summary = board.snapshot()["summary"]
        if ended() and summary.get("over"):
            good = summary["states"].get("done", 0) + summary["states"].get("accepted", 0)
            return OK if good == summary["nodes"] else FAILED
        if not summary.get("quiet"):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > _QUIET_SECONDS:
            return STOPPED
    return 128 + signal.SIGINT


@app.command()
def status(
    file: _File,
    database: _Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show where a roll is, from any machine that reaches its database."""
    inventory = read_inventory(file)
    with _rolls(file, inventory, database) as rolls:
        summary, nodes = rolls.status(inventory)
    if as_json:
        sys.stdout.write(json.dumps({"summary": summary, "nodes": nodes}, indent=2) + "\n")
        return
    board = LiveBoard(inventory)
    board.roll(summary)
    for name, members in nodes.items():
        board.node(name, members)
    Console(highlight=False).print(table(board.snapshot()))


@app.command()
def pause(file: _File, database: _Database = None) -> None:
    """Disturb no further node; those that are disturbed are finished."""
    _command(file, database, "pause")


@app.command()
def resume(
    file: _File,
    database: _Database = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A node that is taken as it is: no longer counted, nor tried again."),
    ] = None,
) -> None:
    """Continue after a pause or a stop; nodes that failed are tried again."""
    _command(file, database, "resume", accept=accept or [])


@app.command()
def abort(file: _File, database: _Database = None) -> None:
    """End a roll: nodes that are not rebooting yet are given back as they were."""
    _command(file, database, "abort")


def _command(file: Path, database: str | None, command: str, **members: Any) -> None:
    inventory = read_inventory(file)
    unknown = set(members.get("accept", ())) - {node.name for node in inventory.nodes}
    if unknown:
        raise _UsageError(f"{file} has no node {', '.join(sorted(unknown))}.")
    with _rolls(file, inventory, database) as rolls:
        rolls.command(inventory.roll, command, **members)
    sys.stdout.write(f"{command}: sent to {inventory.roll}\n")


@contextmanager
def _rolls(file: Path, inventory: Inventory, database: str | None) -> Iterator[Any]:
    url = _url(database, file, inventory)
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise _UsageError(f"{path} does not exist: the roll {inventory.roll} was not run here.")
    rolls = _engine().DbosRolls(url)
    try:
        yield rolls
    finally:
        rolls.close()


def _url(database: str | None, file: Path, inventory: Inventory) -> str:
    return database or f"sqlite:///{file.resolve().with_name(inventory.roll)}.sqlite"


def _engine() -> Any:
    try:
        from holdfast_rollout.engines import with_dbos  # noqa: PLC0415 - an extra, and slow
    except ImportError as error:
        raise _UsageError(
            f"This needs DBOS ({error}): pip install 'holdfast-rollout[dbos]'."
        ) from error
    return with_dbos


@app.command()
def version() -> None:
    """Show the version."""
    sys.stdout.write(f"holdfast-rollout {__version__}\n")


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    os.environ.setdefault("NO_PROXY", "localhost,127.0.0.1")
    try:
        app()
    except (InventoryError, _UsageError) as error:
        code, message = USAGE, str(error)
    except Exception as error:
        if type(error).__name__ != "EngineError":
            raise
        code, message = FAILED, str(error)
    sys.stderr.write(f"holdfast-rollout: {message}\n")
    raise SystemExit(code)
