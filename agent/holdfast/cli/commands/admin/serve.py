"""`holdfast serve`: the daemon in the foreground."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.commands.admin.hints import print_hints
from holdfast.cli.registration.command import plain_command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import DEFAULT_CONFIG, Common
from holdfast.cli.terminal.errors import CliError


def register(app: CommandGroup) -> None:
    """Add the command."""
    plain_command(
        app,
        "serve",
        serve,
        lines=[
            "holdfast serve",
            "holdfast serve --config ./holdfast.toml",
            "holdfast serve --root /srv/data --socket /tmp/holdfast.sock --listen ''",
        ],
    )


def serve(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_CONFIG",
            help="Settings file.",
            show_default=str(DEFAULT_CONFIG),
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(readable=False, metavar="DIR", help="A directory of state; may be repeated."),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="DIR",
            help="holdfast's own state.",
            show_default="<first root>/.holdfast",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", help="TCP address; empty turns TCP off."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(readable=False, metavar="PATH", help="Unix socket.")
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="FILE", help="Hashed bearer tokens for TCP."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    hints: Annotated[
        bool | None,
        typer.Option(
            "--hints/--no-hints",
            help="Print curl lines to paste, once ready.",
            show_default="on a terminal",
        ),
    ] = None,
) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    Flags win over environment variables (HOLDFAST_…), and those over the settings file.
    """
    from holdfast.config import ConfigError, load_settings

    before: Common = ctx.find_root().obj or Common()
    overrides: dict[str, Any] = {
        "roots": [_absolute(path) for path in root] if root else None,
        "state_dir": state_dir and _absolute(state_dir),
        "listen": listen,
        "socket": socket and _absolute(socket),
        "tokens_file": tokens_file and _absolute(tokens_file),
        "log_level": log_level,
    }
    if overrides["socket"] is None and before.socket is not None:
        overrides["socket"] = _absolute(before.socket)
    try:
        settings = load_settings(config or before.config, overrides)
    except ConfigError as error:
        raise CliError("; ".join(message.rstrip(".") for message in error.messages)) from error
    from holdfast import daemon

    wanted = sys.stderr.isatty() if hints is None else hints
    raise typer.Exit(daemon.serve(settings, on_ready=print_hints if wanted else None))


def _absolute(path: Path) -> str:
    return str(path.absolute()) if str(path) else ""
