"""Kinds of operation: what a capability registers so that its work can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from holdfast.operations.progress import Rate
from holdfast.scopes import Scope

if TYPE_CHECKING:
    from holdfast._engine import Progress

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)


def _no_resources(_params: Any) -> frozenset[str]:
    return frozenset()


def _any(_params: Any) -> None:
    pass


@dataclass(frozen=True)
class Context(Generic[P]):
    """The arguments of a run function."""

    id: str
    params: P
    progress: Progress
    resumed: bool = False
    """An earlier run of this operation was cut short by the end of the daemon."""
    will_resume: Callable[[], bool] = lambda: False
    """Whether, if this run is cancelled now, another resumes it after the daemon's next start."""


@dataclass(frozen=True)
class Kind(Generic[P, R]):
    """One kind of operation.

    `run` is called in a runner thread. It returns the result, which states how it is to be judged
    (`OperationResult.outcome`), or raises `OperationFailed`, an exception of the engine, or
    `OSError`. When its progress is cancelled it must raise the engine's `CancelledError` well
    within a second.
    """

    name: str
    params: type[P]
    result: type[R]
    run: Callable[[Context[P]], R]
    check: Callable[[P], None] = _any
    """Raises for parameters that cannot be served now; called before an operation is recorded."""
    resumable: bool = False
    """After the end of the daemon: run again, with `resumed` true, instead of giving up."""
    resources: Callable[[P], frozenset[str]] = _no_resources
    """Two operations that share any of these names cannot be queued or running together."""
    scope: Scope = Scope.OPERATE
    """What a caller needs to start one, and so to cancel it."""
    rate: Rate = "work"
    """What a rate is of: the work done, file data read, or none where a rate would mean nothing."""
    urgent: bool = False
    """Others leave one place free for it, and it is not counted against its caller's bound."""
    waits: bool = False
    """Mostly waits for an external event, so it takes no slot of those that run at a time."""


class Registry:
    """The kinds this daemon can run, by name."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind[Any, Any]] = {}

    def register(self, kind: Kind[Any, Any]) -> None:
        """Add a kind. Raises `ValueError` if its name is taken."""
        if kind.name in self._kinds:
            raise ValueError(f"operation kind {kind.name!r} is registered twice")
        self._kinds[kind.name] = kind

    def get(self, name: str) -> Kind[Any, Any]:
        """Return the kind of this name. Raises `KeyError` if there is none."""
        return self._kinds[name]

    def has_urgent(self) -> bool:
        """Whether there is a kind for which others leave a place free."""
        return any(kind.urgent for kind in self._kinds.values())

    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._kinds)
