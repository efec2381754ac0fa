"""`holdfast node`: what this machine is."""
# ruff: noqa: PLC0415 - imported once the command runs, so that `--help` is instant

from __future__ import annotations

from holdfast.cli.registration.command import command
from holdfast.cli.registration.groups import CommandGroup
from holdfast.cli.run.session import Session


def register(app: CommandGroup) -> None:
    """Add the command."""
    command(
        app,
        "node",
        lines=["holdfast node", "holdfast node --json | jq -r .boot_id"],
    )(node)


def node(session: Session) -> None:
    """Show the machine: identity, kernel, memory, and the disks below each root."""
    answer = session.api.get("/v1/node")
    if session.out.as_json:
        session.out.json(answer)
        return
    from holdfast.cli.commands.node.views import show_node

    show_node(session.out, answer)
