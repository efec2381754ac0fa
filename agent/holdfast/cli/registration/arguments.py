"""Arguments and options that many commands have, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.terminal import units
from holdfast.cli.terminal.errors import UsageError

Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Wait for the end; --no-wait prints the operation's id at once."
    ),
]


def size_of(text: str) -> int:
    """Read a size as a person writes it. Raises `typer.BadParameter`."""
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def span_of(text: str) -> float:
    """Read a span of time as a person writes it, in seconds. Raises `typer.BadParameter`."""
    try:
        return units.parse_span(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def share_of(text: str) -> float:
    """Read a share such as `90%` as 0.9. Raises `typer.BadParameter`."""
    try:
        return units.parse_share(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def absolute(path: Path) -> str:
    """Make a path as typed absolute; one that already is goes to the daemon untouched."""
    text = str(path) if path.is_absolute() else os.path.normpath(Path.cwd() / path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{units.printable(text)} is not UTF-8, so it cannot be named here; "
            "name the directory it is in"
        ) from None
    return text


def segment(text: str) -> str:
    """Quote an id as a person typed it for use as one segment of a URL's path."""
    from urllib.parse import quote  # noqa: PLC0415 - only where a URL is made

    return quote(text, safe="")
