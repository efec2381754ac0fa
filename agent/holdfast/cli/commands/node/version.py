"""`holdfast version`: what the daemon can do."""

from __future__ import annotations

from holdfast.cli.registration.command import command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import Session


def register(app: CommandGroup) -> None:
    """Add the command."""
    command(
        app,
        "version",
        lines=["holdfast version", "holdfast version --json | jq -r .api_level"],
    )(version)


def version(session: Session) -> None:
    """Show the version of the daemon, its API level, and what it can do."""
    answer = session.api.get("/v1/version")
    if session.out.as_json:
        session.out.json(answer)
        return
    session.out.fields(
        [
            ("holdfast", str(answer["version"])),
            ("API level", str(answer["api_level"])),
            ("features", ", ".join(answer["features"])),
        ]
    )
