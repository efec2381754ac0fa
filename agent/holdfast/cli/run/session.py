"""The context of a command: the options that every command takes, and what follows from them."""
# Modules that are only needed once a command runs are imported there: `--help` should be instant.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.terminal.errors import CliError, UsageError
from holdfast.cli.terminal.output import Output

if TYPE_CHECKING:
    from holdfast.cli.run.backend import Backend
    from holdfast.cli.run.client import Api
    from holdfast.config import Settings

DEFAULT_CONFIG = Path("/etc/holdfast/holdfast.toml")
DEFAULT_SOCKET = Path("/run/holdfast/holdfast.sock")
_PANEL = "Daemon and output"


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that may stand before or after the name of any command."""

    json: Annotated[
        bool | None,
        typer.Option(
            "--json",
            help="Print the result as JSON, sizes in bytes; an error as a problem document, on a "
            "line of standard error.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quiet: Annotated[
        bool | None,
        typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_PANEL),
    ] = None
    socket: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_SOCKET",
            help="The daemon's unix socket.",
            show_default="as in --config",
            rich_help_panel=_PANEL,
        ),
    ] = None
    url: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDFAST_URL",
            metavar="URL",
            help="Speak to a daemon over TCP, for example http://127.0.0.1:9918.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_TOKEN_FILE",
            help="File with the bearer token for --url; or set HOLDFAST_TOKEN.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    ca_file: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_CA_FILE",
            help="Certificate authority to trust for --url https://…",
            rich_help_panel=_PANEL,
        ),
    ] = None
    client_cert: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_CLIENT_CERT",
            help="Client certificate for --url https://…",
            rich_help_panel=_PANEL,
        ),
    ] = None
    client_key: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_CLIENT_KEY",
            help="Its private key, where it is in a file of its own.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            envvar="HOLDFAST_CONFIG",
            help="Settings file.",
            show_default=str(DEFAULT_CONFIG),
            rich_help_panel=_PANEL,
        ),
    ] = None

    def over(self, other: Common) -> Common:
        """Return these options, and the other's where these are not set."""
        chosen = {
            field.name: getattr(other, field.name)
            if getattr(self, field.name) is None
            else getattr(self, field.name)
            for field in fields(self)
        }
        return Common(**chosen)


@dataclass(frozen=True, kw_only=True)
class Local:
    """Options of the commands that can also do the work themselves."""

    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Do the work in this process, without a daemon.",
            rich_help_panel="Without a daemon",
        ),
    ] = False
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root",
            readable=False,
            metavar="DIR",
            help="With --local: a root, in place of those in --config; may be repeated.",
            rich_help_panel="Without a daemon",
        ),
    ] = None
    state_dir: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="DIR",
            help="With --local: where dumps and manifests are kept.",
            show_default="<first root>/.holdfast",
            rich_help_panel="Without a daemon",
        ),
    ] = None


class Session:
    """One run of a command."""

    def __init__(self, common: Common, local: Local | None = None) -> None:
        self.common = common
        self.out = Output(as_json=bool(common.json), quiet=bool(common.quiet))
        self._could_be_local = local is not None
        self._local = local or Local()
        if not self._local.local:
            for flag, value in (
                ("--root", self._local.root),
                ("--state-dir", self._local.state_dir),
            ):
                if value:
                    raise UsageError(f"{flag} goes with --local: a daemon has its own settings")

    @cached_property
    def api(self) -> Api:
        """The daemon."""
        from holdfast.cli.run.client import LOST_ANSWERS, Api, Target

        common = self.common
        return Api(
            Target(
                socket=common.socket or self._configured_socket(),
                url=common.url,
                token=self._token() if common.url else None,
                ca_file=common.ca_file,
                client_cert=common.client_cert,
                client_key=common.client_key,
                way_out=", or do without with --local" if self._could_be_local else "",
            ),
            LOST_ANSWERS,
        )

    @cached_property
    def backend(self) -> Backend:
        """Whatever does the work: the daemon, or with `--local` this process."""
        if not self._local.local:
            from holdfast.cli.run.remote import RemoteBackend

            return RemoteBackend(self.api)
        from holdfast.cli.run.local import LocalBackend

        return LocalBackend(
            self.load_settings(
                roots=[str(root.absolute()) for root in self._local.root or ()] or None,
                state_dir=self._local.state_dir and str(self._local.state_dir.absolute()),
            )
        )

    def load_settings(self, **overrides: Any) -> Settings:
        """Read the settings file and the environment. Raises `CliError` where they are wrong."""
        from holdfast.config import ConfigError, load_settings

        try:
            return load_settings(self.common.config, overrides)
        except ConfigError as error:
            raise CliError("; ".join(message.rstrip(".") for message in error.messages)) from error

    def close(self) -> None:
        """Let go of connections."""
        if "api" in self.__dict__:
            self.api.close()

    def _configured_socket(self) -> Path:
        """Read only the socket's name: a client needs none of the daemon's other settings."""
        file = self.common.config or DEFAULT_CONFIG
        try:
            with file.open("rb") as stream:
                named = tomllib.load(stream).get("socket")
        except FileNotFoundError:
            if self.common.config is not None:
                raise UsageError(f"the settings file {file} does not exist") from None
            return DEFAULT_SOCKET
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            if self.common.config is None and isinstance(error, PermissionError):
                return DEFAULT_SOCKET
            raise CliError(
                f"the settings file {file} cannot be read: {error}; name the daemon with --socket"
            ) from error
        return Path(named) if isinstance(named, str) and named else DEFAULT_SOCKET

    def _token(self) -> str | None:
        file = self.common.token_file
        if file is None:
            return os.environ.get("HOLDFAST_TOKEN") or None
        try:
            with file.open(encoding="ascii") as opened:
                self._warn_of_readers(file, os.fstat(opened.fileno()))
                token = opened.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the token file {file} cannot be read: {error}") from error
        if not token or len(token.split()) != 1:
            raise UsageError(f"the token file {file} should hold one token and nothing else")
        return token

    def _warn_of_readers(self, file: Path, status: os.stat_result) -> None:
        """Warn if a file with a secret is open to other users than a group that may read it."""
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode) and mode & 0o027:
            self.out.note(
                f"warning: other users can get at the token file {file} (mode {mode:04o}); run "
                f"`chmod 0600 {file}`"
            )
