"""`holdfast image`: describe disk images for re-imaging, and check files against descriptors."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.registration.arguments import absolute
from holdfast.cli.registration.command import command, group
from holdfast.cli.run.session import Session

_PACKED = (".zst", ".gz", ".xz", ".raw", ".img", ".qcow2")

app = group(
    "image",
    "Describe disk images for re-imaging, sign descriptors, and check files against them.",
    lines=[
        "holdfast image inspect disk.raw",
        "holdfast image describe disk.raw.zst",
        "holdfast image sign disk.raw.zst.json --key release.key",
        "holdfast image verify disk.raw.zst disk.raw.zst.json --key release.pem",
    ],
)


@command(
    app,
    "describe",
    lines=[
        "holdfast image describe disk.raw.zst",
        "holdfast image describe disk.raw --name web --image-version 2026.11.24",
        "holdfast image describe disk.raw --output disk.json --json | jq -r .descriptor_sha256",
        "holdfast image describe disk.raw --root-partition 2",
        "holdfast image describe disk.qcow2",
        "holdfast image describe ami://ami-0123456789abcdef0 --output web.json",
    ],
)
def describe(
    session: Session,
    *,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|ami://ID",
            help="A raw disk image, or one packed with zstd, gzip or xz; a qcow2 file, of which "
            "FILE.raw.zst is made; or a machine image of EC2.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="What the image is, for people.", show_default="the file's name"),
    ] = None,
    image_version: Annotated[
        str | None, typer.Option(help="Which one it is, for people.", show_default="today's date")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            readable=False,
            help="Where to write the descriptor. Serve it beside the image.",
            show_default="beside the image, with .json at its end",
        ),
    ] = None,
    root_partition: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of the partition that has the root.",
            show_default="found by looking into all of them",
        ),
    ] = None,
) -> None:
    """Read a disk image and write its descriptor. Works in this process, without a daemon.

    A qcow2 file is converted with qemu-img first; one that refers to other files is refused. The
    root disk of a machine image is read block by block, and meanwhile needs free space beside the
    output.
    """
    from holdfast.cli.commands.image.views import show_described
    from holdfast.operations.model import now
    from holdfast.reimage.images.kinds import DESCRIBE

    moment = now()
    ami = file.startswith("ami://")
    body = {
        "file": None if ami else absolute(Path(file)),
        "ami": file if ami else None,
        "output": None if output is None else absolute(output),
        "name": name or _plain(Path(file).name),
        "image_version": image_version or f"{moment:%Y.%m.%d}",
        "created": moment,
        "root_partition": root_partition,
    }
    _run(session, DESCRIBE, body, show_described)
    if ami:
        session.out.hint(f"next: holdfast reimage stage URL --content {file}")


@command(
    app,
    "inspect",
    lines=[
        "holdfast image inspect disk.raw",
        "holdfast image inspect disk.raw.zst --json | jq .root",
        "holdfast image inspect disk.raw --root-partition 2",
    ],
)
def inspect(
    session: Session,
    *,
    file: Annotated[
        Path, typer.Argument(help="A raw disk image, or one packed with zstd, gzip or xz.")
    ],
    root_partition: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of the partition that has the root.",
            show_default="found by looking into all of them",
        ),
    ] = None,
) -> None:
    """Show what a disk image is: its system, its root, and how it boots. Writes no descriptor.

    Exits with 3 if the image contradicts itself, so that it cannot be described. Works in this
    process, without a daemon. Of a raw image only a little is read; a packed one is unpacked into a
    file without a name, in TMPDIR or beside it.
    """
    from holdfast.cli.commands.image.views import show_inspected
    from holdfast.cli.terminal.errors import ExitCode
    from holdfast.reimage.images.kinds import INSPECT

    body = {"file": absolute(file), "root_partition": root_partition}
    if _run(session, INSPECT, body, show_inspected)["problems"]:
        raise typer.Exit(ExitCode.DIFFERENCES)


@command(
    app,
    "verify",
    lines=[
        "holdfast image verify disk.raw.zst disk.raw.zst.json",
        "holdfast image verify disk.raw disk.raw.zst.json --json | jq .differences",
        "holdfast image verify disk.raw.zst disk.raw.zst.json --key release.pem",
    ],
)
def verify(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(help="The image, raw or packed.")],
    descriptor: Annotated[Path, typer.Argument(help="Its descriptor.")],
    sha256: Annotated[
        str | None, typer.Option(help="What the descriptor's own SHA-256 must be.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The public key that must have signed the descriptor, or a directory of several."
        ),
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(help="The descriptor's signature.", show_default="DESCRIPTOR.sig"),
    ] = None,
) -> None:
    """Read the file of an image and check it against its descriptor. Exits with 3 if it differs.

    With a key, the descriptor's signature is checked before that.

    Works in this process, without a daemon.
    """
    from holdfast.cli.commands.image.views import show_verified
    from holdfast.cli.terminal.errors import ExitCode, UsageError
    from holdfast.reimage.images.kinds import VERIFY

    if signature is not None and key is None:
        raise UsageError("--signature needs --key: whose signature it should be")

    body = {
        "file": absolute(file),
        "descriptor": absolute(descriptor),
        "descriptor_sha256": sha256,
        "key": None if key is None else absolute(key),
        "signature": None if signature is None else absolute(signature),
    }
    if not _run(session, VERIFY, body, show_verified).get("ok"):
        raise typer.Exit(ExitCode.DIFFERENCES)


def _run(session: Session, kind: Any, body: Mapping[str, Any], render: Any) -> Mapping[str, Any]:
    """Do the work with a bar, and print its result. Raises `CliError` unless it succeeds."""
    from pydantic import ValidationError

    from holdfast.cli.run.follow import follow
    from holdfast.cli.run.local_run import LocalRun
    from holdfast.cli.run.outcome import why
    from holdfast.cli.terminal.errors import CliError, UsageError
    from holdfast.text.wording import first

    try:
        params = kind.params.model_validate(body)
    except ValidationError as error:
        raise UsageError(first(error)) from error
    operation = follow(LocalRun(kind, params), session.out, started_here=True)
    if operation["state"] != "succeeded":
        raise CliError(why(operation), problem=operation.get("error"))
    result: Mapping[str, Any] = operation["result"]
    if session.out.as_json:
        session.out.json(result)
    else:
        render(session.out, result)
    return result


def _plain(name: str) -> str:
    """Return a file's name without the suffix of its compression."""
    while name.endswith(_PACKED) and name.rindex(".") > 0:
        name = name[: name.rindex(".")]
    return name
