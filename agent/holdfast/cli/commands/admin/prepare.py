"""`holdfast prepare`: what root has to do before a daemon of another user can start."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.registration.command import command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import CliError, UsageError


def register(app: CommandGroup) -> None:
    """Add the command."""
    command(app, "prepare", lines=["holdfast prepare --user holdfast"])(prepare)


def prepare(
    session: Session,
    *,
    user: Annotated[str, typer.Option(metavar="NAME", help="The user that the daemon runs as.")],
) -> None:
    """Make the state directory for the daemon's user. Needs root; for the daemon's unit.

    A directory of another user's is handed over only if the imager's marker proves that it is this
    machine's, and once. Does nothing while the volume is missing.
    """
    import pwd

    from holdfast.config import StateDirError
    from holdfast.config.handover import give_state_dir

    try:
        owner = pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"there is no user {user!r}") from None
    try:
        message = give_state_dir(session.load_settings(), owner.pw_uid, owner.pw_gid)
    except StateDirError as error:
        raise CliError(str(error).rstrip(".")) from error
    if not session.out.quiet:
        session.out.line(message)
