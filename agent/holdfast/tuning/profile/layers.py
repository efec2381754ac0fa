"""The checked content of one profile file: a layer that others may inherit from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Policy = Literal["report", "enforce"]
Scalar = str | int | bool
Value = Scalar | dict[str, Scalar]


class ProfileError(Exception):
    """A profile is wrong; `mistakes` has one sentence for each, with file, line and key."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a profile."""

    file: str
    line: int
    key: str
    message: str
    """What follows the key in a sentence, without a full stop."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: `{self.key}` {self.message}" if self.key else f"{where}: {self.message}"


@dataclass(frozen=True)
class Spot:
    """The position of a statement, and the comment on it."""

    file: str
    line: int
    key: str
    comment: str = ""

    @property
    def place(self) -> str:
        """For example `cassandra.toml:12`."""
        return f"{self.file}:{self.line}"

    def mistake(self, message: str) -> Mistake:
        """Blame this."""
        return Mistake(self.file, self.line, self.key, message)


@dataclass(frozen=True)
class Entry:
    """One value of a profile."""

    name: str
    """Within its table: `vm.swappiness`, `scheduler`, `nofile`."""
    value: Value | None
    """None: what is inherited is taken away."""
    spot: Spot
    when: str | None = None
    only_if_present: bool = False


@dataclass(frozen=True)
class Table:
    """Values for one thing, or for all that a selector matches."""

    subsystem: str
    """`sysctl`, `block`, `network`, `memory`, `limits`, `modules`."""
    target: str
    """The unit or module; empty where a selector names it, or there is only one."""
    entries: list[Entry]
    spot: Spot
    select: Mapping[str, list[str] | bool] = field(default_factory=dict)
    when: str | None = None


@dataclass(frozen=True)
class Layer:
    """One profile file."""

    name: str
    file: str
    """Its path, or its name for those that come with holdfast."""
    builtin: bool
    description: str
    extends: list[str]
    extends_spot: Spot
    policy: Policy | None
    """None: as inherited."""
    variables: dict[str, tuple[str, Spot]]
    tables: list[Table]
    text: str
