"""`holdfast manifest export` and `import`: manifests carried from one node to another."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.commands.manifest.commands import ManifestId, app
from holdfast.cli.registration.command import command
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import UsageError
from holdfast.cli.terminal.files import emit, pieces


class Format(StrEnum):
    """The file formats of a manifest."""

    NATIVE = "native"
    JSONL = "jsonl"
    XXHSUM = "xxhsum"
    XXHSUM_ESCAPED = "xxhsum-escaped"


@command(
    app,
    "export",
    local=True,
    lines=[
        "holdfast manifest export | ssh node-8 holdfast manifest import -",
        "holdfast manifest export --format xxhsum | (cd /mnt/data && xxhsum -c)",
    ],
)
def export(
    session: Session,
    *,
    manifest: ManifestId = "latest",
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
        Format,
        typer.Option(
            "--format",
            help="The record file, its lines, or what xxhsum -c reads: xxhsum-escaped has the "
            "names that need escaping, for xxhsum 0.8.2 and later.",
        ),
    ] = Format.NATIVE,
) -> None:
    """Write a manifest, to carry it to another node or to check it with xxhsum."""
    if session.out.as_json and output is None:
        raise UsageError("--json needs --output here: without it the manifest goes to stdout")
    if output is None and form is Format.NATIVE and sys.stdout.isatty():
        raise UsageError("a record is not text: name a file with --output, or use a pipe")
    chunks = session.backend.manifests.content(manifest, form.value.replace("-", "_"))
    emit(session.out, "manifest", manifest, chunks, output)


@command(
    app,
    "import",
    local=True,
    lines=[
        "holdfast manifest import node-7.manifest",
        "ssh node-7 holdfast manifest export | holdfast manifest import -",
    ],
)
def import_(
    session: Session,
    *,
    file: Annotated[
        Path, typer.Argument(readable=False, help="Record file of holdfast; - is standard input.")
    ],
) -> None:
    """Store a manifest that was made elsewhere; it is checked in full first."""
    with pieces(file) as chunks:
        stored = session.backend.manifests.store(chunks)
    if session.out.as_json:
        session.out.json(stored)
        return
    from holdfast.cli.commands.manifest.views import show_stored

    show_stored(session.out, stored)
