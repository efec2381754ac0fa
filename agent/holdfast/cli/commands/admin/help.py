"""`holdfast help`: the help of a command, as `--help` shows it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.cli.registration.command import plain_command
from holdfast.cli.registration.groups import CommandGroup


def register(app: CommandGroup) -> None:
    """Add the command."""
    plain_command(app, "help", help_of, lines=["holdfast help", "holdfast help pagecache load"])


def help_of(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="A command, e.g. `pagecache load`."),
    ] = None,
) -> None:
    """Show the help of a command, or of all."""
    main: Any = ctx.find_root().command
    main.main([*(words or ()), "--help"], prog_name="holdfast", standalone_mode=False)
