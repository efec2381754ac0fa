"""`holdfast memory`: caches in memory, saved to the data volume and put back."""
# ruff: noqa: PLC0415 - imported once a command runs, so that `--help` is instant

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.registration.arguments import Wait, absolute, segment, size_of, span_of
from holdfast.cli.registration.command import command, group
from holdfast.cli.registration.completion import save_ids
from holdfast.cli.run.session import Session

app = group(
    "memory",
    "Caches in memory: save files of a tmpfs to the data volume, and put them back, verified.",
    lines=[
        "holdfast memory save /mnt/memcached --requires memory_file.meta",
        "holdfast memory restore /mnt/memcached",
        "holdfast memory show",
    ],
)

Root = Annotated[
    Path | None,
    typer.Argument(readable=False, help="A root of `memory.roots`.", show_default="the only one"),
]
EvenIfOpen = Annotated[
    bool, typer.Option("--even-if-open", help="Also while files are held open for writing.")
]


@command(
    app,
    "save",
    lines=[
        "holdfast memory save",
        "holdfast memory save /mnt/memcached --requires memory_file.meta",
        "holdfast memory save /dev/shm --include 'app-*'",
    ],
)
def save(
    session: Session,
    *,
    root: Root = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Save only what matches; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out what matches; may be repeated."),
    ] = None,
    requires: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Save nothing unless this file of the root is there; may be repeated.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=size_of, metavar="SIZE", help="Write at most this much a second."),
    ] = None,
    even_if_open: EvenIfOpen = False,
    wait: Wait = True,
) -> None:
    """Write the files of a tmpfs root to the data volume. Their service must be stopped."""
    from holdfast.cli.commands.memory.views import show_saved
    from holdfast.cli.run.outcome import perform

    body: dict[str, Any] = {
        "root": root and absolute(root),
        "include": include or None,
        "exclude": exclude or None,
        "requires": requires or None,
        "bytes_per_second": rate,
        "even_if_open": even_if_open or None,
    }
    perform(session, "memory.save", body, show_saved, wait=wait)


@command(
    app,
    "restore",
    lines=[
        "holdfast memory restore",
        "holdfast memory restore /mnt/memcached --before-start --max-age 1h",
        "holdfast memory restore --save 01JDCB7X7V0Q1B5Y3F8M2R9T4K --again --replace",
    ],
)
def restore(
    session: Session,
    *,
    root: Root = None,
    save: Annotated[
        str,
        typer.Option(metavar="SAVE", help="A save's id, or `latest`.", autocompletion=save_ids),
    ] = "latest",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace files that are there already.")
    ] = False,
    before_start: Annotated[
        bool,
        typer.Option(
            "--before-start",
            help="For units: nothing to restore is no failure, and the save counts as used, since "
            "the service starts in any case.",
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also restore a save that was used before.")
    ] = False,
    max_age: Annotated[
        float | None,
        typer.Option(
            parser=span_of, metavar="TIME", help="Do not restore a save older than this, e.g. 1h."
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=size_of, metavar="SIZE", help="Read at most this much a second."),
    ] = None,
    even_if_open: EvenIfOpen = False,
    wait: Wait = True,
) -> None:
    """Put a save back into its tmpfs root: all of it, verified, or nothing."""
    from holdfast.cli.commands.memory.views import show_restored
    from holdfast.cli.run.outcome import perform

    body: dict[str, Any] = {
        "root": root and absolute(root),
        "save": None if save == "latest" else save,
        "existing": "replace" if replace else None,
        "before_start": before_start or None,
        "again": again or None,
        "max_age_seconds": None if max_age is None else max(1, round(max_age)),
        "bytes_per_second": rate,
        "even_if_open": even_if_open or None,
    }
    perform(session, "memory.restore", body, show_restored, wait=wait)


@command(
    app,
    "show",
    lines=["holdfast memory show", "holdfast memory show --json | jq '.saves[0].used_at'"],
)
def show(session: Session) -> None:
    """Show the roots in memory, and the saves on the data volume."""
    found = session.api.get("/v1/memory")
    if session.out.as_json:
        session.out.json(found)
        return
    from holdfast.cli.commands.memory.views import show_state

    show_state(session.out, found)


@command(app, "delete", lines=["holdfast memory delete 01JDCB7X7V0Q1B5Y3F8M2R9T4K"])
def delete(
    session: Session,
    *,
    save: Annotated[
        str, typer.Argument(metavar="SAVE", help="A save's id.", autocompletion=save_ids)
    ],
) -> None:
    """Delete a save."""
    session.api.delete(f"/v1/memory/saves/{segment(save)}")
    if session.out.as_json:
        session.out.json({"deleted": save})
    else:
        session.out.line(f"deleted save {save}")
