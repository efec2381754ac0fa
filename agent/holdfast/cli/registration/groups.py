"""Groups whose commands are made when they are used.

Making a command reads the annotations of its options, which takes a few milliseconds; all of them
together would take half a second before the first one could run. A group knows the names of its
commands and the beginnings of their help, which is all that lists of commands show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from holdfast.cli.registration.plain_values import spare_validators


@dataclass(frozen=True)
class Entry:
    """A command or group that is made when it is used."""

    about: str
    """The first paragraph of its help."""
    make: Callable[[], Any]


class LazyCommands(MutableMapping[str, Any]):
    """The commands of a group by name, made when they are looked up."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._entries[name].make()
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"the command {name} cannot be removed")

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from (name for name in self._made if name not in self._entries)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class PlainCommand(TyperCommand):
    """A command of which the help shows flags without a value."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        plain_flags(self.get_params(ctx))
        super().format_help(ctx, formatter)


def plain_flags(parameters: Iterable[Any]) -> None:
    """See that no type is shown for flags, as if a value had to follow."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


class LazyGroup(TyperGroup):
    """A group of typer with commands from `entries`."""

    entries: ClassVar[Mapping[str, Entry]] = {}
    annotations: ClassVar[Mapping[str, Any]] = {}
    """Those of its own options."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": LazyCommands(self.entries)})
        spare_validators(self, self.annotations)
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, without making a command."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; while commands are listed, one that has no more than its help."""
        if self._listing and cmd_name in self.entries:
            return TyperCommand(
                cmd_name, help=self.entries[cmd_name].about, rich_markup_mode=self.rich_markup_mode
            )
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the group."""
        plain_flags(self.get_params(ctx))
        with self._lists():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the completions of a command's name."""
        with self._lists():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _lists(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False


class CommandGroup(typer.Typer):
    """What modules register their commands with."""

    def __init__(self, **options: Any) -> None:
        self.entries: dict[str, Entry] = {}
        self.annotations: dict[str, Any] = {}
        members = {"entries": self.entries, "annotations": self.annotations}
        super().__init__(
            cls=type("Group", (LazyGroup,), members),
            rich_markup_mode="rich",
            no_args_is_help=True,
            **options,
        )

    def add(self, name: str, about: str | None, make: Callable[[], Any]) -> None:
        """Register what `make` makes; `about` is its help, of which lists show the beginning."""
        paragraph = (about or "").strip().partition("\n\n")[0]
        self.entries[name] = Entry(" ".join(paragraph.split()), make)
