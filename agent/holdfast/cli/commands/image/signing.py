"""`holdfast image keygen` and `sign`: whose images a node takes."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.commands.image.commands import app
from holdfast.cli.registration.command import command
from holdfast.cli.run.session import Session
from holdfast.cli.terminal.errors import CliError


@command(
    app,
    "keygen",
    lines=[
        "holdfast image keygen release-2026",
        "sudo install -m 644 -D release-2026.pem -t /etc/holdfast/trusted-keys.d",
    ],
)
def keygen(
    session: Session,
    *,
    name: Annotated[Path, typer.Argument(help="What its two files are called.")],
) -> None:
    """Make a key pair for signing descriptors: NAME.key, to be kept secret, and NAME.pem.

    Nodes trust the public keys in `reimage.trusted_keys_dir`. `openssl genpkey -algorithm ed25519`
    makes such keys, too.
    """
    from holdfast.signing.keys import make_pair

    try:
        private, public = make_pair(name)
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    if session.out.as_json:
        session.out.json({"private": str(private), "public": str(public)})
        return
    session.out.line(f"wrote {private}, which is secret, and {public}, for every node to trust")


@command(
    app,
    "sign",
    lines=[
        "holdfast image sign disk.raw.zst.json --key release.key",
        "holdfast image sign disk.json --key release.key --output disk.json.sig",
    ],
)
def sign(
    session: Session,
    *,
    descriptor: Annotated[Path, typer.Argument(help="The descriptor.")],
    key: Annotated[Path, typer.Option(help="The private key: Ed25519, PEM, PKCS#8.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            readable=False,
            help="Where to write the signature. Serve it beside the descriptor.",
            show_default="DESCRIPTOR.sig",
        ),
    ] = None,
) -> None:
    """Sign a descriptor, so that nodes take it that trust the key."""
    from holdfast._engine import RecordError
    from holdfast.reimage.images.models import Descriptor
    from holdfast.signing.keys import KeyFileError, read_private
    from holdfast.signing.trust import sign as make_signature
    from holdfast.storage.atomic_files import write_output

    target = output or descriptor.with_name(f"{descriptor.name}.sig")
    try:
        data = descriptor.read_bytes()
        Descriptor.parse(data)
        write_output(target, [make_signature(read_private(key), data)], 0o644)
    except (KeyFileError, RecordError) as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    if session.out.as_json:
        session.out.json({"signature": str(target)})
    else:
        session.out.line(f"wrote {target}")
