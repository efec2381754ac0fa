"""`holdfast transfer`: fetch what another node offers."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.registration.arguments import Wait, absolute, segment, size_of
from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import transfer_ids
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import UsageError

_TICKET_BYTES = 64 << 10

app = group(
    "transfer",
    "Offer a directory to another node, and fetch what one offers: proven, in passes.",
    lines=[
        "holdfast transfer offer /mnt/data/cassandra > ticket",
        "holdfast transfer pull --ticket ticket /mnt/data/cassandra",
        "holdfast transfer pull --ticket ticket /mnt/data/cassandra --final",
        "holdfast transfer list",
    ],
)


class Proof(StrEnum):
    """How far every byte is proven."""

    WIRE = "wire"
    FLUSHED = "flushed"
    MEDIA = "media"


TransferId = Annotated[
    str,
    typer.Argument(
        metavar="TRANSFER",
        help="A transfer's id, or the beginning of one.",
        autocompletion=transfer_ids,
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(parser=size_of, metavar="SIZE", help="Send at most this much a second."),
]
Ticket = Annotated[
    Path,
    typer.Option(
        "--ticket",
        "-t",
        metavar="FILE",
        readable=False,
        help="The ticket, as `transfer offer` printed it; `-` for standard input.",
    ),
]


@command(
    app,
    "pull",
    lines=[
        "holdfast transfer pull --ticket ticket /mnt/data/cassandra",
        "holdfast transfer pull --ticket ticket /mnt/data/cassandra --passes 3 --proof media",
        "holdfast transfer pull --ticket ticket /mnt/data/cassandra --final --page-cache",
    ],
)
def pull(
    session: Session,
    *,
    path: Annotated[
        Path,
        typer.Argument(
            readable=False, help="The destination, in a root; made if its last name is missing."
        ),
    ],
    ticket: Ticket,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="Complete the transfer: one pass, with the datastore stopped on both ends.",
        ),
    ] = False,
    passes: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="Passes at most.", show_default="8"),
    ] = None,
    until_remaining: Annotated[
        int | None,
        typer.Option(
            parser=size_of,
            metavar="SIZE",
            help="Stop after a pass that leaves at most this much to fetch.",
            show_default="64MiB",
        ),
    ] = None,
    proof: Annotated[
        Proof,
        typer.Option(help="That bytes arrived, are flushed, or were read back from the device."),
    ] = Proof.FLUSHED,
    connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=32,
            metavar="N",
            help="Data connections.",
            show_default="as many as are faster",
        ),
    ] = None,
    rate: Rate = None,
    even_if_open: Annotated[
        bool,
        typer.Option(
            "--even-if-open", help="With --final: also while files are held open for writing."
        ),
    ] = False,
    map_owners: Annotated[
        bool,
        typer.Option("--map-owners", help="Keep the names of users and groups, not their numbers."),
    ] = False,
    page_cache: Annotated[
        bool,
        typer.Option(
            "--page-cache", help="With --final: load what is in memory on the source here too."
        ),
    ] = False,
    wait: Wait = True,
) -> None:
    """Fetch what a ticket offers, in passes, until little changes. Resumes an earlier pull.

    --final checks on both ends that no process holds a file of the tree open for writing, fetches
    the rest, makes a manifest on both, and completes the transfer: no transfer writes there again.
    """
    from holdfast.cli.commands.transfer.views import show_pulled
    from holdfast.cli.run.outcome import judge, perform

    if even_if_open and not final:
        raise UsageError("--even-if-open goes with --final")
    if page_cache and not final:
        raise UsageError("--page-cache goes with --final")
    body: dict[str, Any] = {
        "ticket": _read_ticket(ticket),
        "path": absolute(path),
        "final": final or None,
        "passes": passes,
        "until_remaining": until_remaining,
        "proof": None if proof is Proof.FLUSHED else proof.value,
        "connections": connections,
        "bytes_per_second": rate,
        "even_if_open": even_if_open or None,
        "map_owners": map_owners or None,
        "page_cache": page_cache or None,
    }
    judge(perform(session, "transfer.pull", body, show_pulled, wait=wait))


@command(
    app,
    "repair",
    lines=[
        "holdfast transfer repair --ticket ticket /mnt/data/cassandra",
        "holdfast transfer repair --ticket ticket /mnt/data/cassandra --overwrite-written",
    ],
)
def repair(
    session: Session,
    *,
    path: Annotated[Path, typer.Argument(readable=False, help="The destination, in a root.")],
    ticket: Ticket,
    overwrite_written: Annotated[
        bool,
        typer.Option(
            "--overwrite-written",
            help="Set back files too that were written to since they were transferred.",
        ),
    ] = False,
    rate: Annotated[
        int | None,
        typer.Option(parser=size_of, metavar="SIZE", help="Read at most this much a second."),
    ] = None,
    even_if_open: Annotated[
        bool, typer.Option("--even-if-open", help="Also while files are held open for writing.")
    ] = False,
    wait: Wait = True,
) -> None:
    """Compare a destination with the source's manifest, and fetch only the chunks that differ.

    Each finding names the side that is to blame: the source reads a chunk again before it sends
    it. Exits with 3 if something could not be healed.
    """
    from holdfast.cli.commands.transfer.views import show_repaired
    from holdfast.cli.run.outcome import judge, perform

    body: dict[str, Any] = {
        "ticket": _read_ticket(ticket),
        "path": absolute(path),
        "overwrite_written": overwrite_written or None,
        "bytes_per_second": rate,
        "even_if_open": even_if_open or None,
    }
    judge(perform(session, "transfer.repair", body, show_repaired, wait=wait))


@command(
    app,
    "list",
    lines=["holdfast transfer list", "holdfast transfer list --json | jq '.transfers[].complete'"],
)
def list_transfers(session: Session) -> None:
    """List the transfers into this node, newest first."""
    found = session.api.get("/v1/transfers")
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.transfer.views import show_transfers

    show_transfers(session.out, found)


@command(
    app,
    "show",
    lines=["holdfast transfer show 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)
def show(session: Session, *, transfer: TransferId) -> None:
    """Show a transfer into this node, and the pull that ran last."""
    found = session.api.get(f"/v1/transfers/{segment(transfer)}")
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.transfer.views import show_transfer

    show_transfer(session.out, found)


@command(
    app,
    "forget",
    lines=["holdfast transfer forget 01JDCB7X7V0Q1B5Y3F8M2R9T4K"],
)
def forget(session: Session, *, transfer: TransferId) -> None:
    """Forget a transfer into this node: it cannot be continued. What was fetched stays."""
    session.api.delete(f"/v1/transfers/{segment(transfer)}")
    if session.out.as_json:
        session.out.json({"forgotten": transfer})
    else:
        session.out.line(f"forgot transfer {transfer}")


def _read_ticket(file: Path) -> Any:
    """Read a ticket; the daemon checks its members. Raises `UsageError`."""
    name = "standard input" if str(file) == "-" else f"the ticket {file}"
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(_TICKET_BYTES + 1)
        else:
            with file.open("rb") as stream:
                data = stream.read(_TICKET_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    try:
        if len(data) > _TICKET_BYTES:
            raise ValueError
        ticket = json.loads(data)
    except (ValueError, RecursionError):
        ticket = None
    if not isinstance(ticket, dict):
        raise UsageError(f"{name} is not a ticket, as `holdfast transfer offer` prints one")
    # The answer of the API has the offer beside the ticket.
    return ticket["ticket"] if isinstance(ticket.get("ticket"), dict) else ticket
