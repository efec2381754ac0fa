"""`holdfast image`: describe disk images for re-imaging, and check files against descriptors."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import units
from holdfast.cli.arguments import absolute
from holdfast.cli.command import command, group
from holdfast.cli.session import Session

if TYPE_CHECKING:
    from holdfast.cli.output import Output

_PACKED = (".zst", ".raw", ".img")

app = group(
    "image",
    "Describe disk images for re-imaging, and check files against their descriptors.",
    lines=["holdfast image describe disk.raw.zst", "holdfast image verify disk.raw.zst disk.json"],
)


@command(
    app,
    "describe",
    lines=[
        "holdfast image describe disk.raw.zst",
        "holdfast image describe disk.raw --name web --image-version 2026.11.24",
        "holdfast image describe disk.raw --output disk.json --json | jq -r .descriptor_sha256",
    ],
)
def describe(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(help="A raw disk image, or one packed with zstd.")],
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
            show_default="FILE.json",
        ),
    ] = None,
) -> None:
    """Read a disk image and write its descriptor. Works in this process, without a daemon."""
    from holdfast.operations.model import now
    from holdfast.reimage.images.kinds import DESCRIBE

    moment = now()
    body = {
        "file": absolute(file),
        "output": absolute(output or file.with_name(f"{file.name}.json")),
        "name": name or _plain(file.name),
        "image_version": image_version or f"{moment:%Y.%m.%d}",
        "created": moment,
    }
    _run(session, DESCRIBE, body, _show_described)


@command(
    app,
    "verify",
    lines=[
        "holdfast image verify disk.raw.zst disk.raw.zst.json",
        "holdfast image verify disk.raw disk.raw.zst.json --json | jq .differences",
    ],
)
def verify(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(help="The image, raw or as it is delivered.")],
    descriptor: Annotated[Path, typer.Argument(help="Its descriptor.")],
    sha256: Annotated[
        str | None, typer.Option(help="What the descriptor's own SHA-256 must be.")
    ] = None,
) -> None:
    """Read the file of an image and check it against its descriptor. Exits with 3 if it differs.

    Works in this process, without a daemon.
    """
    from holdfast.cli.errors import ExitCode
    from holdfast.reimage.images.kinds import VERIFY

    body = {
        "file": absolute(file),
        "descriptor": absolute(descriptor),
        "descriptor_sha256": sha256,
    }
    if not _run(session, VERIFY, body, _show_verified).get("ok"):
        raise typer.Exit(ExitCode.DIFFERENCES)


def _run(session: Session, kind: Any, body: Mapping[str, Any], render: Any) -> Mapping[str, Any]:
    """Do the work with a bar, and print its result. Raises `CliError` unless it succeeds."""
    from pydantic import ValidationError

    from holdfast.cli.errors import CliError, UsageError
    from holdfast.cli.follow import follow
    from holdfast.cli.local import LocalRun
    from holdfast.cli.outcome import why

    try:
        params = kind.params.model_validate(body)
    except ValidationError as error:
        told = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, told['loc']))}: {told['msg']}") from error
    operation = follow(LocalRun(kind, params), session.out, started_here=True)
    if operation["state"] != "succeeded":
        raise CliError(why(operation))
    result: Mapping[str, Any] = operation["result"]
    if session.out.as_json:
        session.out.json(result)
    else:
        render(session.out, result)
    return result


def _show_described(out: Output, result: Mapping[str, Any]) -> None:
    from holdfast.reimage.images.models import Described

    done = Described.model_validate(result)
    image = done.image
    out.line(f"wrote {units.printable(str(done.descriptor))}")
    content = image.content
    out.fields(
        [
            ("image", f"{image.name} {image.image_version}"),
            ("size", f"{units.size(image.size_bytes)}, {units.size(image.mapped_bytes)} mapped"),
            ("content", f"{content.file}, {content.encoding}, {units.size(content.size_bytes)}"),
            ("boot modes", ", ".join(image.boot_modes) or "none"),
            ("root", f"partition {image.root_partition}" if image.root_partition else "unknown"),
            ("descriptor SHA-256", done.descriptor_sha256),
        ],
        indent=2,
    )
    if image.partition_table is None:
        out.line("  no partition table")
        return
    out.table(
        ["partition", ">start", ">size", "file system", "label", "~type"],
        [
            (
                str(one.number),
                units.size(one.start_bytes),
                units.size(one.size_bytes),
                one.file_system or "",
                one.label or one.name,
                one.type,
            )
            for one in image.partition_table.partitions
        ],
        indent=2,
    )


def _show_verified(out: Output, result: Mapping[str, Any]) -> None:
    from holdfast.reimage.images.models import Verified

    found = Verified.model_validate(result, by_name=True)
    if found.ok:
        out.line(
            f"whole and as described: {units.size(found.size_bytes)}, "
            f"{units.size(found.mapped_bytes)} of them mapped"
        )
        return
    words = {"differs": "differs", "zeros": "is zeros", "not_zeros": "should be zeros"}
    for one in found.differences:
        out.line(f"{one.offset}+{one.length} {words[one.kind]}")
    out.line(f"not as described: {found.why()}")


def _plain(name: str) -> str:
    """Answer a file's name without what says how it is packed."""
    while name.endswith(_PACKED) and len(name) > len(".zst"):
        name = name[: name.rindex(".")]
    return name
