"""`holdfast token`: bearer tokens for the TCP listener. Works on the token file; asks no daemon."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from holdfast.cli.registration.command import command, group
from holdfast.cli.run.session import Session
from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import CliError, UsageError
from holdfast.cli.terminal.tables import Column

app = group(
    "token",
    "Make and revoke the bearer tokens that the daemon asks for over TCP.",
    lines=["holdfast token create deploy --scope operate --output token", "holdfast token list"],
)


class ScopeName(StrEnum):
    """What the bearer of a token may do; see `holdfast.scopes`."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    IMAGES = "images"


TokensFile = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        metavar="FILE",
        help="The daemon's file of hashed tokens.",
        show_default="as configured",
    ),
]
Name = Annotated[str, typer.Argument(help="A name of the user or program that has it.")]


@command(
    app,
    "create",
    lines=[
        "holdfast token create prometheus --output /etc/prometheus/holdfast-token",
        "holdfast token create deploy --scope operate --expires 90d",
    ],
)
def create(
    session: Session,
    name: Name,
    *,
    scope: Annotated[
        ScopeName,
        typer.Option(
            help="read; operate: also dump, load, evict; admin: everything; images: only download "
            "the staged image, for other nodes."
        ),
    ] = ScopeName.READ,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="After 12h, 90d, 4w, or on 2027-01-31.", show_default="never"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            writable=False,
            help="Write the token to a new file that only its owner may read, and do not print it.",
        ),
    ] = None,
    tokens_file: TokensFile = None,
) -> None:
    """Make a token and print it. It is shown this once: the daemon's file has only its hash.

    A running daemon accepts it at once.
    """
    from holdfast.api.http.callers import tokens

    file = _file(session, tokens_file)
    until = None if expires is None else _moment(expires)
    # The file before the token: one that could not be handed over would stay valid.
    with _refusals(), _new_file(output) as stream:
        secret = tokens.create(file, name, tokens.Scope(scope.value), until)
        if stream is not None:
            stream.write(f"{secret}\n")
    if session.out.as_json:
        shown = {"token": secret} if output is None else {"output": str(output)}
        session.out.json(
            {
                "name": name,
                "scope": scope.value,
                "expires_at": until and until.isoformat(),
                **shown,
                "file": str(file),
            }
        )
        return
    if output is None:
        session.out.at_once(secret)  # never wrapped
    else:
        session.out.line(f"wrote the token to {units.printable(str(output))}")
    session.out.hint(f"its hash is in {file}; the token is not shown again")


@command(app, "list", lines=["holdfast token list"])
def list_tokens(session: Session, *, tokens_file: TokensFile = None) -> None:
    """List the tokens by name, without the tokens themselves."""
    from holdfast.api.http.callers import tokens

    file = _file(session, tokens_file)
    with _refusals():
        found = tokens.list_tokens(file)
    if session.out.as_json:
        session.out.json(
            {"tokens": [token.model_dump(mode="json", exclude={"sha256"}) for token in found]}
        )
        return
    if not found:
        session.out.line(f"no tokens in {units.printable(str(file))}")
        return
    session.out.table(
        ["name", "scope", Column("made", rank=1), "expires"],
        [
            (
                units.printable(token.name),
                token.scope.value,
                units.age(token.created_at),
                _expiry(token.expires_at, expired=token.expired()),
            )
            for token in found
        ],
    )


@command(app, "revoke", lines=["holdfast token revoke deploy"])
def revoke(session: Session, name: Name, *, tokens_file: TokensFile = None) -> None:
    """Revoke a token; a running daemon refuses it from then on."""
    from holdfast.api.http.callers import tokens

    with _refusals():
        gone = tokens.revoke(_file(session, tokens_file), name)
    if session.out.as_json:
        session.out.json({"revoked": gone.name})
    else:
        session.out.line(f"revoked {units.printable(gone.name)}")


def _file(session: Session, named: Path | None) -> Path:
    return named if named is not None else session.load_settings().tokens_file


def _moment(text: str) -> datetime:
    with suppress(ValueError, OverflowError):
        span = timedelta(seconds=units.parse_span(text))
        return datetime.now(UTC).replace(microsecond=0) + span
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--expires {text!r} is not a time; write for example 12h, 90d or 2027-01-31"
        ) from None
    return moment if moment.tzinfo else moment.astimezone()


def _expiry(moment: datetime | None, *, expired: bool) -> str:
    if moment is None:
        return "never"
    return f"{units.moment(moment)}{' (expired)' if expired else ''}"


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO | None]:
    """Make a file that only its owner may read, removed again if the block fails.

    Yields nothing without a path. Raises `CliError`, also if there is something already.
    """
    if path is None:
        yield None
        return
    shown = units.printable(str(path))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CliError(f"{shown} exists already; name another file, or remove it first") from None
    except OSError as error:
        raise CliError(f"cannot write {shown}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            os.fchmod(descriptor, 0o600)  # whatever default access list the directory has
            yield stream
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _refusals() -> Iterator[None]:
    from holdfast.api.http.callers.tokens import TokenError

    try:
        yield
    except TokenError as error:
        raise CliError(str(error).rstrip(".")) from error
