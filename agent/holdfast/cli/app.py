"""The command line as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import (
    config,
    helper,
    image_signing,
    manifest_content,
    node,
    operations,
    pagecache_content,
    prepare,
    reimage,
    serve,
    token,
    tune,
)
from holdfast.cli.command import CONTEXT_SETTINGS, examples, main_options


def _version(wanted: bool) -> None:
    if wanted:
        from holdfast import __version__  # noqa: PLC0415 - loads the engine

        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="holdfast",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=CONTEXT_SETTINGS,
    epilog=examples(
        [
            "holdfast serve --root /srv/data",
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
serve.register(app)
app.add_typer(pagecache_content.app)
app.add_typer(manifest_content.app)
app.add_typer(tune.app)
app.add_typer(reimage.app)
app.add_typer(image_signing.app)
app.add_typer(operations.app)
node.register(app)
app.add_typer(config.app)
app.add_typer(token.app)
helper.register(app)
prepare.register(app)
