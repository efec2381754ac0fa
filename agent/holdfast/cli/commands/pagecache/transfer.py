"""`holdfast pagecache export` and `import`: dumps carried from one node to another."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.commands.pagecache.commands import DumpId, app
from holdfast.cli.registration.command import command
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import UsageError
from holdfast.cli.terminal.files import emit, pieces


class Format(StrEnum):
    """The file formats of a dump."""

    NATIVE = "native"
    HAPPYCACHE = "happycache"


@command(
    app,
    "export",
    local=True,
    lines=[
        "holdfast pagecache export latest --output node-7.dump",
        "holdfast pagecache export | ssh node-8 holdfast pagecache import -",
        "holdfast pagecache export --format happycache -o .happycache.gz",
    ],
)
def export(
    session: Session,
    *,
    dump: DumpId = "latest",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            readable=False,
            metavar="FILE",
            help="File to write.",
            show_default="stdout",
        ),
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="Record file of holdfast, or of happycache.")
    ] = Format.NATIVE,
) -> None:
    """Write a dump's record file, to carry it to another node."""
    if session.out.as_json and output is None:
        raise UsageError("--json needs --output here: without it the dump goes to standard output")
    if output is None and sys.stdout.isatty():
        raise UsageError("a dump is not text: name a file with --output, or use a pipe")
    chunks = session.backend.dumps.content(dump, form.value)
    emit(session.out, "dump", dump, chunks, output)


@command(
    app,
    "import",
    local=True,
    lines=[
        "holdfast pagecache import node-7.dump",
        "curl -s http://node-7/dump | holdfast pagecache import -",
        "holdfast pagecache import .happycache.gz",
    ],
)
def import_(
    session: Session,
    *,
    file: Annotated[
        Path,
        typer.Argument(
            readable=False, help="Record file of holdfast or happycache; - is standard input."
        ),
    ],
) -> None:
    """Store a dump that was made elsewhere; it is checked in full first."""
    with pieces(file) as chunks:
        stored = session.backend.dumps.store(chunks)
    if session.out.as_json:
        session.out.json(stored)
        return
    from holdfast.cli.commands.pagecache.views import show_stored

    show_stored(session.out, stored)
