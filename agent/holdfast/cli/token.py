"""`holdfast token`: bearer tokens for the TCP listener. Works on the token file; asks no daemon."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import units
from holdfast.cli.command import command, group
from holdfast.cli.errors import CliError, UsageError
from holdfast.cli.session import Session
from holdfast.cli.tables import Column

app = group(
    "token",
    "Make and revoke the bearer tokens that the daemon asks for over TCP.",
    lines=["holdfast token create deploy --scope operate > token", "holdfast token list"],
)


class ScopeName(StrEnum):
    """What the bearer of a token may do; each includes the ones before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


TokensFile = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        metavar="FILE",
        help="The daemon's file of hashed tokens.",
        show_default="as configured",
    ),
]
Name = Annotated[str, typer.Argument(help="A name that says who or what has it.")]


@command(
    app,
    "create",
    lines=[
        "holdfast token create prometheus --scope read > /etc/prometheus/holdfast-token",
        "holdfast token create deploy --scope operate --expires 90d",
    ],
)
def create(
    session: Session,
    name: Name,
    *,
    scope: Annotated[
        ScopeName,
        typer.Option(help="read; operate: also dump, load, evict; admin: everything."),
    ] = ScopeName.READ,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="After 12h, 90d, 4w, or on 2027-01-31.", show_default="never"
        ),
    ] = None,
    tokens_file: TokensFile = None,
) -> None:
    """Make a token and print it. It is shown this once: the file has only its hash.

    A running daemon accepts it at once.
    """
    from holdfast.api import tokens

    file = _file(session, tokens_file)
    until = None if expires is None else _moment(expires)
    with _refusals():
        secret = tokens.create(file, name, tokens.Scope(scope.value), until)
    if session.out.as_json:
        session.out.json(
            {
                "name": name,
                "scope": scope.value,
                "expires_at": until and until.isoformat(),
                "token": secret,
                "file": str(file),
            }
        )
        return
    session.out.line(secret)
    session.out.hint(f"its hash is in {file}; the token is not shown again")


@command(app, "list", lines=["holdfast token list"])
def list_tokens(session: Session, *, tokens_file: TokensFile = None) -> None:
    """List the tokens by name, without the tokens themselves."""
    from holdfast.api import tokens

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
    from holdfast.api import tokens

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
def _refusals() -> Iterator[None]:
    from holdfast.api.tokens import TokenError

    try:
        yield
    except TokenError as error:
        raise CliError(str(error).rstrip(".")) from error
