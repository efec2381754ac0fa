"""`holdfast helper`: the process that has the rights that the daemon has not."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.registration.command import plain_command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import DEFAULT_CONFIG
from holdfast.cli.terminal.errors import CliError, UsageError


def register(app: CommandGroup) -> None:
    """Add the command."""
    plain_command(
        app,
        "helper",
        helper,
        lines=["holdfast helper --socket /run/holdfast-helper/socket --user holdfast"],
    )


def helper(
    *,
    socket: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="PATH",
            help="Unix socket to make.",
            show_default="the one that systemd hands over",
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who may ask: the daemon's user.",
            show_default="owner of the socket handed over",
        ),
    ] = None,
    idle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="End after so long without a request.")
    ] = 0,
    imager: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The program that writes images, for re-imaging.",
            show_default="the one of the package",
        ),
    ] = None,
    journal_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where to record what settings were before; only root may write there.",
            show_default="one below /var/lib/holdfast-helper",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            envvar="HOLDFAST_CONFIG",
            help="Root's settings: what may be armed.",
            show_default=str(DEFAULT_CONFIG),
        ),
    ] = None,
    profiles_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Profiles of root's: what they name may be set besides what tuning needs.",
            show_default="the one of root's settings",
        ),
    ] = None,
) -> None:
    """Write settings for a daemon that runs without the right to; for systemd to start.

    It does what tuning and re-imaging need and nothing else: the daemon's `helper` setting names
    its socket.
    """
    import pwd

    from holdfast.config.journaldir import journal_dir_of
    from holdfast.privileged import privileged
    from holdfast.privileged.boot.policy import Policy
    from holdfast.privileged.helper import HelperError, HelperServer, listen, listener_of_systemd
    from holdfast.process import logs
    from holdfast.tuning.changes.ledger import Ledger
    from holdfast.tuning.changes.root_settings import tuning_of_root
    from holdfast.tuning.profile.named import allow_list

    def policy() -> Policy:
        from holdfast.reimage.policy import policy_of_root

        return policy_of_root(config)

    logs.configure("info")
    try:
        listener = listener_of_systemd()
        path = socket if listener is None else Path(os.fsdecode(listener.getsockname()))
        if path is None or (listener is None and user is None):
            raise UsageError("nothing is handed over by systemd: name --socket and --user")
        tuning = tuning_of_root(config)
        may_write = allow_list(profiles_dir or tuning.profiles_dir, {0})
        journal_dir = journal_dir or tuning.journal_dir or journal_dir_of(path, path)
        executor = privileged(None, imager, policy, journal_dir)
        ledger = Ledger(journal_dir, executor, may_write)
        # Last, so that a client that finds the socket is served at once.
        with listener or listen(path, user or "") as listener:
            # Its owner is whom systemd or `listen` made it for.
            owner = path.stat().st_uid
            allowed = pwd.getpwnam(user).pw_uid if user is not None else owner
            users = frozenset({0, allowed})
            HelperServer(
                listener, users, idle, executor=executor, changes=ledger, allowed=may_write
            ).run()
    except KeyError:
        raise UsageError(f"there is no user {user!r}") from None
    except HelperError as error:
        raise CliError(str(error).rstrip(".")) from error
