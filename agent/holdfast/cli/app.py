"""The command line as a whole."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main

from holdfast.cli.registration.command import CONTEXT_SETTINGS, examples, main_options
from holdfast.cli.registration.groups import CommandGroup

_ABOUT = {
    "serve": "Run the daemon in the foreground, until SIGTERM or Ctrl-C.",
    "node": "Show the machine: identity, kernel, memory, and the disks below each root.",
    "version": "Show the version of the daemon, its API level, and what it can do.",
    "status": "Show on one screen whether all is well: ready, roots, records, drift, what runs.",
    "help": "Show the help of a command, or of all.",
    "helper": "Write settings for a daemon that runs without the right to; for systemd to start.",
    "prepare": "Make the state directory for the daemon's user. Needs root; for the daemon's unit.",
    "pagecache": "See, dump, load and evict what the page cache holds of the roots' files.",
    "manifest": "Record files with their digests; verify and compare them, to prove that a copy is "
    "faithful.",
    "memory": "Caches in memory: save files of a tmpfs to the data volume, and put them back, "
    "verified.",
    "transfer": "Offer a directory to another node, and fetch what one offers: proven, in passes.",
    "tune": "Kernel settings by profile: see what would change, apply all or nothing, watch, roll "
    "back.",
    "reimage": "Replace the system image of this machine in place; its data are not touched.",
    "image": "Describe disk images for re-imaging, sign descriptors, and check files against them.",
    "op": "See and cancel operations: the long work that the daemon does.",
    "config": "Check and show the settings. Reads the file and the environment; asks no daemon.",
    "token": "Make and revoke the bearer tokens that the daemon asks for over TCP.",
}
"""The first paragraph of the help of each command and group, whose module is imported for more."""
_MODULES = {
    "serve": ["admin.serve"],
    "node": ["node.commands"],
    "version": ["node.version"],
    "status": ["status.commands"],
    "help": ["admin.help"],
    "helper": ["admin.helper"],
    "prepare": ["admin.prepare"],
    "pagecache": ["pagecache.commands", "pagecache.transfer"],
    "manifest": ["manifest.commands", "manifest.transfer"],
    "memory": ["memory.commands"],
    "transfer": ["transfer.commands", "transfer.offers"],
    "tune": ["tune.commands"],
    "reimage": ["reimage.commands"],
    "image": ["image.commands", "image.signing"],
    "op": ["op.commands"],
    "config": ["admin.config"],
    "token": ["admin.token"],
}
"""The modules of each command or group; the first has the group, and the others add to it."""


def _load(name: str) -> Any:
    """Import the modules of a command or group, and make it."""
    modules = [import_module(f"holdfast.cli.commands.{module}") for module in _MODULES[name]]
    if hasattr(modules[0], "app"):
        return typer.main.get_group(modules[0].app)
    holder = CommandGroup()
    modules[0].register(holder)
    return holder.entries[name].make()


def _version(wanted: bool) -> None:
    if wanted:
        from holdfast import __version__  # noqa: PLC0415 - loads the engine

        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


app = CommandGroup(
    name="holdfast",
    pretty_exceptions_enable=False,
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        [
            "holdfast serve --root /srv/data",
            "holdfast status",
            "holdfast pagecache show",
            "holdfast manifest build",
            "holdfast --url https://node-7:9918 --token-file token op list",
        ]
    ),
)
main_options(
    app,
    "Hold on to a stateful server's state while everything above it is replaced.\n\n"
    "The daemon (serve), and a client of the one on this machine or of another's (--url).",
    version=Annotated[  # type: ignore[arg-type]
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ],
)
for _name, _about in _ABOUT.items():
    app.add(_name, _about, partial(_load, _name))
