"""The options that describe an image on the command line, and the request made of them."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.terminal.errors import UsageError

_SHA256_LENGTH = 64


class Mode(StrEnum):
    """Where the imager takes the image from."""

    STAGED = "staged"
    NETWORK = "network"


class Identity(StrEnum):
    """What can be carried over."""

    SSH_HOST_KEYS = "ssh_host_keys"
    MACHINE_ID = "machine_id"
    HOSTNAME = "hostname"
    HOLDFAST = "holdfast"
    NONE = "none"


Descriptor = Annotated[str, typer.Argument(metavar="URL", help="The image's descriptor.")]
Digest = Annotated[
    str | None,
    typer.Option(
        "--sha256",
        metavar="HEX|FILE",
        help="SHA-256 of the descriptor, or a copy of the descriptor to take it of. Without it the "
        "descriptor has to be signed by a key that the node trusts.",
    ),
]
Signature = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The descriptor's signature, which then has to be good.",
        show_default="the descriptor's with .sig, if there is no --sha256",
    ),
]
Content = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The image.", show_default="beside its descriptor"),
]
Mirrors = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Where the image is as well, asked when it cannot be read; may be repeated.",
        show_default=False,
    ),
]
ModeOption = Annotated[
    Mode, typer.Option(help="Copy the image here first, or let the imager fetch it.")
]
IdentityOption = Annotated[
    list[Identity] | None,
    typer.Option(
        "--identity", help="What the new system keeps; may be repeated.", show_default="all"
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Verify the data by this manifest afterwards, or `latest`."),
]
Sample = Annotated[
    float | None,
    typer.Option("--sample", min=0, max=100, metavar="PERCENT", help="Of the manifest's chunks."),
]
Manual = Annotated[
    bool, typer.Option("--manual", help="Wait for `reimage confirm` even if all checks pass.")
]
GrowRoot = Annotated[
    bool,
    typer.Option("--grow-root", help="Extend the root, if it is last, to the end of the disk."),
]
SavePrevious = Annotated[
    bool,
    typer.Option("--save-previous", help="Keep this system on the data volume, to roll back to."),
]
AllowUnprotected = Annotated[
    bool,
    typer.Option(
        "--allow-unprotected",
        help="Although the disk has no place for a lifeboat, without which a power cut during the "
        "write leaves a disk that does not boot.",
    ),
]
RollbackAfter = Annotated[
    int | None,
    typer.Option(
        "--rollback-after",
        min=60,
        max=7 * 86400,
        metavar="SECONDS",
        help="Keep this system, and put it back if the new one is not confirmed by then.",
        show_default="never",
    ),
]


def stage_body(
    descriptor: str,
    digest: str | None,
    *,
    signature: str | None,
    content: str | None,
    mirrors: list[str] | None,
    mode: Mode,
    identity: list[Identity] | None,
    manifest: str | None,
    sample: float | None,
    manual: bool,
    grow_root: bool,
    save_previous: bool,
    allow_unprotected: bool,
    rollback_after: int | None,
) -> dict[str, Any]:
    """Return the body that asks for it. Raises `UsageError`."""
    body: dict[str, Any] = {
        "descriptor": descriptor,
        "descriptor_sha256": None if digest is None else _digest(digest),
        "signature": signature,
        "content": content,
        "mode": mode.value,
        "manifest": manifest,
        "sample_percent": sample,
        "confirm": "manual" if manual else "auto",
        "grow_root": grow_root,
        "save_previous": save_previous or rollback_after is not None,
    }
    if mirrors:
        body["mirrors"] = mirrors
    if allow_unprotected:
        body["allow_unprotected"] = True
    if rollback_after is not None:
        body |= {"rollback": "automatic", "confirm_seconds": rollback_after}
    if identity is not None:
        body["identity"] = [part.value for part in identity if part is not Identity.NONE]
    return {key: value for key, value in body.items() if value is not None}


def _digest(text: str) -> str:
    lowered = text.lower()
    if len(lowered) == _SHA256_LENGTH and all(digit in "0123456789abcdef" for digit in lowered):
        return lowered
    path = Path(text)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(
            f"--sha256 {text}: neither 64 hexadecimal digits nor a file that can be read "
            f"({error.strerror})"
        ) from error
