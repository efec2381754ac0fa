"""`holdfast transfer offer`, `offers` and `revoke`: what this node offers."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.commands.transfer.commands import Rate, app
from holdfast.cli.registration.arguments import absolute, segment, span_of
from holdfast.cli.registration.command import command
from holdfast.cli.registration.completion import offer_ids
from holdfast.cli.registration.pressure import PressureGroup, PressurePercent, pressure_limit
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import UsageError


class OtherFilesystems(StrEnum):
    """What to do with mounts below an offered directory."""

    REFUSE = "refuse"
    INCLUDE = "include"
    LEAVE_OUT = "leave-out"


@command(
    app,
    "offer",
    lines=[
        "holdfast transfer offer /mnt/data/cassandra > ticket",
        "holdfast transfer offer /mnt/data/pg --exclude 'pg_wal/*' --expires 4h --rate 500MiB",
        "holdfast transfer offer /mnt/data/sstables --files-from list --json | jq .offer.id",
    ],
)
def offer(
    session: Session,
    *,
    path: Annotated[Path, typer.Argument(readable=False, help="The directory, in a root.")],
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Offer only what matches; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out what matches; may be repeated."),
    ] = None,
    files_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Offer only the files of this list, a relative path on each line."
        ),
    ] = None,
    other_filesystems: Annotated[
        OtherFilesystems,
        typer.Option(help="What to do where another file system is mounted below."),
    ] = OtherFilesystems.REFUSE,
    expires: Annotated[
        float | None,
        typer.Option(
            parser=span_of, metavar="TIME", help="How long it is valid.", show_default="1d"
        ),
    ] = None,
    rate: Rate = None,
    pressure: PressurePercent = None,
    pressure_cgroup: PressureGroup = None,
) -> None:
    """Offer a directory to one other node, and print the ticket that lets it fetch it, once.

    The ticket is shown here and never again. Needs the setting `transfer.listen`.
    """
    body: dict[str, Any] = {
        "path": absolute(path),
        "include": include or None,
        "exclude": exclude or None,
        "files": None if files_from is None else _lines(files_from),
        "other_filesystems": None
        if other_filesystems is OtherFilesystems.REFUSE
        else other_filesystems.value.replace("-", "_"),
        "expires_seconds": None if expires is None else max(int(expires), 1),
        "bytes_per_second": rate,
        "pressure": pressure_limit(pressure, pressure_cgroup),
    }
    made = session.api.post(
        "/v1/transfers/offers", {key: value for key, value in body.items() if value is not None}
    )
    if session.out.as_json:
        session.out.json(made)
        return
    shown = made["offer"]
    session.out.line(json.dumps(made["ticket"]))
    session.out.note(
        f"offer {shown['id']} of {shown['path']} until {shown['expires_at']}; one node "
        "that has the ticket can fetch it"
    )
    session.out.hint(
        f"on the other node: holdfast transfer pull --ticket FILE {shown['path']}; to withdraw it: "
        f"holdfast transfer revoke {shown['id']}"
    )


@command(
    app,
    "offers",
    lines=["holdfast transfer offers", "holdfast transfer offers --json | jq '.offers[].state'"],
)
def offers(session: Session) -> None:
    """List what this node offers, newest first."""
    found = session.api.get("/v1/transfers/offers")
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.transfer.views import show_offers

    show_offers(session.out, found)


@command(
    app,
    "revoke",
    lines=["holdfast transfer revoke 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)
def revoke(
    session: Session,
    *,
    offers: Annotated[
        list[str],
        typer.Argument(metavar="OFFER...", help="Ids of offers.", autocompletion=offer_ids),
    ],
) -> None:
    """Withdraw offers, and cut the connections of their destinations at once."""
    for offer in offers:
        session.api.delete(f"/v1/transfers/offers/{segment(offer)}")
        if not session.out.as_json:
            session.out.line(f"revoked offer {offer}")
    if session.out.as_json:
        session.out.json({"revoked": offers})


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {file} cannot be read: {error}") from error
    named = [line for line in lines if line]
    if not named:
        raise UsageError(f"the list {file} names no file")
    return named
