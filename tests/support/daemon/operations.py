"""Operations whose work a test directs step by step, on a real store with real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from holdfast._engine import CancelledError, Progress
from holdfast.operations.kinds import Context, Kind, Registry
from holdfast.operations.model import Operation, OperationSummary
from holdfast.operations.service import Operations
from holdfast.operations.store import Store
from holdfast.scopes import Scope
from tests.support.waiting import until

WAIT_SECONDS = 20.0


class DirectedProgress:
    """The members of the engine's `Progress`, but with counters that a test can set."""

    def __init__(self) -> None:
        self.phase = ""
        self.current: str | None = None
        self.bytes_done = 0
        self.bytes_expected: int | None = None
        self.files_done = 0
        self.files_expected: int | None = None
        self.read_bytes = 0
        self.uses_share: float | None = None
        self.changed = threading.Condition()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        with self.changed:
            self._cancelled = True
            self.changed.notify_all()


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "one"
    size: int = 0


class Result(BaseModel):
    name: str


@dataclass
class Work:
    """The run function of a kind: begins, waits to be released or cancelled, and ends."""

    outcome: Callable[[Context[Params]], Any] = lambda context: Result(name=context.params.name)
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    contexts: list[Context[Params]] = field(default_factory=list)
    deaf: bool = False
    """Does not notice that it is cancelled."""
    _released: set[str] = field(default_factory=set)
    _all: bool = False
    _waited: int = 0

    def __call__(self, context: Context[Params]) -> Any:
        progress = cast(DirectedProgress, context.progress)
        self.contexts.append(context)
        self.began.release()
        with progress.changed:
            assert progress.changed.wait_for(
                lambda: (
                    self._all
                    or context.id in self._released
                    or (progress.cancelled and not self.deaf)
                ),
                WAIT_SECONDS,
            )
        if progress.cancelled and not self.deaf:
            raise CancelledError("cancelled")
        return self.outcome(context)

    def wait_begun(self) -> Context[Params]:
        """Wait until one more run has started, and return it; each run is returned once."""
        assert self.began.acquire(timeout=WAIT_SECONDS)
        self._waited += 1
        return self.contexts[self._waited - 1]

    def release(self, context: Context[Params]) -> None:
        """Let one run continue to its end."""
        progress = directed(context)
        with progress.changed:
            self._released.add(context.id)
            progress.changed.notify_all()

    def release_all(self) -> None:
        """Let every run, also later ones, continue to its end."""
        self._all = True
        for context in self.contexts:
            progress = directed(context)
            with progress.changed:
                progress.changed.notify_all()


def directed(context: Context[Params]) -> DirectedProgress:
    return cast(DirectedProgress, context.progress)


def registry_of(*kinds: Kind[Any, Any]) -> Registry:
    registry = Registry()
    for kind in kinds:
        registry.register(kind)
    return registry


def kind_of(
    work: Callable[[Context[Params]], Result],
    name: str = "test.work",
    *,
    resumable: bool = False,
    exclusive: bool = False,
    scope: Scope = Scope.OPERATE,
    urgent: bool = False,
) -> Kind[Params, Result]:
    return Kind(
        name=name,
        params=Params,
        result=Result,
        run=work,
        resumable=resumable,
        resources=lambda params: frozenset({params.name} if exclusive else ()),
        scope=scope,
        urgent=urgent,
    )


@contextmanager
def operations(
    directory: Path,
    *kinds: Kind[Any, Any],
    max_running: int = 2,
    keep: int = 100,
    keep_days: int = 30,
) -> Iterator[Operations]:
    """Give recovered operations on the store in `directory`; shut them down afterwards."""
    store = Store(directory)
    service = Operations(
        store,
        registry_of(*kinds),
        max_running=max_running,
        keep=keep,
        keep_days=keep_days,
        new_progress=lambda: cast(Progress, DirectedProgress()),
    )
    try:
        service.recover()
        yield service
    finally:
        service.shutdown(5.0)
        store.close()


def start(
    service: Operations, kind: str = "test.work", name: str = "one", **more: Any
) -> Operation:
    return service.start(kind, Params(name=name), actor="tester", **more)[0]


def ended(service: Operations, operation: OperationSummary) -> Operation:
    """Wait for the end of an operation, and return it."""

    def final() -> Operation | None:
        found = service.get(operation.id)
        return found if found.state.final else None

    return until(final, what=f"the end of {operation.id}")
