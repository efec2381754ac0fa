"""Registers a command: its own options, those common to all, its examples, and a session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import typer
import typer.main

from holdfast.cli.registration.groups import CommandGroup, PlainCommand
from holdfast.cli.registration.plain_values import spare_validators
from holdfast.cli.run.session import Common, Local, Session

CONTEXT_SETTINGS = {"help_option_names": ["--help", "-h"]}
COMMON_NOTE = (
    "[dim]Every command also takes --json, --quiet and the options that name the daemon: "
    "see holdfast --help.[/dim]"
)


class Command(PlainCommand):
    """A command of which the help leaves out the options that every command takes."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of this command's own options."""
        everything = self.params
        common = {field.name for field in fields(Common)}
        self.params = [parameter for parameter in everything if parameter.name not in common]
        try:
            super().format_help(ctx, formatter)
        finally:
            self.params = everything


def examples(lines: Sequence[str]) -> str:
    """Lay out example command lines for the end of a help text."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  $ {_escape(line)}" for line in lines)])


def group(name: str, about: str, *, lines: Sequence[str]) -> CommandGroup:
    """Make a group of commands, which shows its help when called alone."""
    return CommandGroup(
        name=name, help=about, epilog=examples(lines), context_settings=CONTEXT_SETTINGS
    )


def command(
    app: CommandGroup, name: str, *, lines: Sequence[str], local: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is a `Session`.

    The other parameters are the command's own. `lines` are examples for its help; `local` adds
    the options to work without a daemon.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.add(
            name,
            function.__doc__,
            lambda: _made(
                name, _with_session(function, local=local), lines, kind=Command, note=COMMON_NOTE
            ),
        )
        return function

    return register


def plain_command(
    app: CommandGroup, name: str, function: Callable[..., None], *, lines: Sequence[str]
) -> None:
    """Register a function that takes no session and has its own options only."""
    app.add(name, function.__doc__, lambda: _made(name, function, lines))


def _made(
    name: str,
    function: Callable[..., None],
    lines: Sequence[str],
    *,
    kind: type[PlainCommand] = PlainCommand,
    note: str = "",
) -> Any:
    """Make the command of a function with the annotations that typer reads."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        name,
        cls=kind,
        epilog="\n".join(part for part in (examples(lines), note) if part),
        context_settings=CONTEXT_SETTINGS,
        no_args_is_help=False,
    )(function)
    made = typer.main.get_command(app)
    spare_validators(made, get_type_hints(function, include_extras=True))
    return made


def _with_session(function: Callable[..., None], *, local: bool) -> Callable[..., None]:
    """Return a function with the options common to all commands, which makes the session."""
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    own = [p.replace(annotation=hints[p.name]) for p in parameters[1:]]
    shared = [*(_options(Local) if local else ()), *_options(Common)]

    def entry(ctx: typer.Context, **values: Any) -> None:
        before: Common = ctx.find_root().obj or Common()
        common = Common(**_take(values, Common)).over(before)
        session = Session(common, Local(**_take(values, Local)) if local else None)
        try:
            function(session, **values)
        finally:
            session.close()

    _declare(entry, [*own, *shared])
    entry.__doc__ = function.__doc__
    entry.__name__ = function.__name__
    return entry


def _declare(entry: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Give a function that takes `ctx` and `**values` the signature that typer reads."""
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    entry.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [context, *keyword_only]
    )
    entry.__annotations__ = {p.name: p.annotation for p in [context, *keyword_only]}


def main_options(app: CommandGroup, about: str, version: type[bool]) -> None:
    """Let the options common to all commands stand before a command's name as well."""

    def entry(ctx: typer.Context, **values: Any) -> None:
        ctx.obj = Common(**_take(values, Common))

    flag = inspect.Parameter(
        "version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=version
    )
    _declare(entry, [flag, *_options(Common)])
    entry.__doc__ = about
    app.annotations.update(entry.__annotations__)
    app.callback()(entry)


def _options(options: type[Common] | type[Local]) -> list[inspect.Parameter]:
    """Return the options of a dataclass as parameters of a function."""
    hints = get_type_hints(options, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)
    ]


def _take(values: dict[str, Any], options: type[Common] | type[Local]) -> dict[str, Any]:
    return {field.name: values.pop(field.name) for field in fields(options)}


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
