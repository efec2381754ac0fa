"""The face of operations: start, look, wait, listen, cancel; and what happens at start and stop.

`runner.py` describes what a stop of the daemon does to operations.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import BinaryIO

from pydantic import BaseModel, ValidationError

from holdfast._engine import Progress
from holdfast.operations.events import Listener
from holdfast.operations.idempotency import check_key, digest_of
from holdfast.operations.ids import LENGTH as ID_LENGTH
from holdfast.operations.ids import ambiguous, new_id
from holdfast.operations.kinds import Registry
from holdfast.operations.model import (
    Conflict,
    IdempotencyMismatch,
    Operation,
    OperationSummary,
    Problem,
    RequestError,
    ShuttingDown,
    Slug,
    State,
    UnknownOperation,
    now,
)
from holdfast.operations.queue import QueueFullError, admit
from holdfast.operations.rows import LISTED_PARAMS_BYTES
from holdfast.operations.runner import Live, Runner
from holdfast.operations.statistics import KindFigures, Statistics
from holdfast.operations.store import (
    Listed,
    Selection,
    Store,
    StoreError,
    Unfinished,
)
from holdfast.process import trace
from holdfast.scopes import Scope
from holdfast.telemetry.spans import Spans

log = logging.getLogger(__name__)

MAX_CRASHES = 10
"""An operation during which the daemon ended this often without warning is not resumed again."""
LATEST = "latest"
_BEGINNING = re.compile(r"[0-9A-Za-z]{4,25}")
"""Of an id: shorter ones would soon be those of several."""


class Operations:
    """All operations of this node. Methods may be called from any thread.

    `start`, `get`, `list` and `cancel` may block on the disk for as long as a commit takes, so a
    coroutine calls them in a thread; `wait` and `events` are coroutines themselves. All of them may
    raise `StoreError` (a `RequestError`) when the record cannot be read or written.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        max_running: int,
        keep: int,
        keep_days: int,
        new_progress: Callable[[], Progress] = Progress,
        spans: Spans | None = None,
    ) -> None:
        """Kinds may be registered until `recover` is called."""
        self._store = store
        self.registry = registry
        self._keep = keep
        self._keep_days = keep_days
        self._new_progress = new_progress
        self._spans = spans or Spans()
        self._admission = threading.Lock()
        self._statistics = Statistics()
        self._runner = Runner(
            store,
            self._statistics,
            max_running=max_running,
            reserve=registry.has_urgent,
            on_end=self._prune,
            spans=self._spans,
        )

    def recover(self) -> None:
        """Settle what the last process left. Call once, before anything else, kinds registered.

        Queued operations wait again. What was running when the process ended without warning is
        resumed under its id if its kind can, else it is `interrupted`.
        """
        for kind, success in self._store.last_successes().items():
            self._statistics.remember_success(
                kind, success.finished_at.timestamp(), success.seconds
            )
        for left in self._store.unfinished():
            self._recover(left)
        self._prune()

    def start(
        self,
        kind: str,
        params: BaseModel,
        *,
        actor: str,
        idempotency_key: str | None = None,
        asked: BaseModel | None = None,
    ) -> tuple[Operation, bool]:
        """Check a new operation, record and queue it; return it and whether it is new.

        `asked` is the caller's request where `params` were made from it: an `idempotency_key` goes
        with that.

        With an `idempotency_key` that was used before for the same request, return that operation
        in its current state, without a check: that a dump has been deleted since is no reason to
        forget what was done with it. Raises `IdempotencyMismatch` if it was used for another
        request, what the kind's check raises, `Conflict` if an operation that is queued or running
        holds what this one needs, `QueueFullError` if too many are waiting, `ShuttingDown`,
        `RequestError`, and `KeyError` for a kind that is not registered.
        """
        registered = self.registry.get(kind)
        check_key(idempotency_key)
        digest = digest_of(kind, params if asked is None else asked)
        existing = self._started_with(idempotency_key, digest)
        if existing is not None:
            return existing, False
        registered.check(params)
        with self._admission:
            existing = self._started_with(idempotency_key, digest)
            if existing is not None:
                return existing, False
            if self._runner.stopping:
                raise ShuttingDown
            resources = registered.resources(params)
            holder = self._runner.holder(resources)
            if holder is not None:
                raise Conflict(holder.snapshot())
            admit(registered, actor, self._runner.queued())
            operation = Operation(
                id=new_id(),
                kind=kind,
                state=State.QUEUED,
                actor=actor,
                traceparent=trace.current(),
                created_at=now(),
                params=params.model_dump(mode="json"),
            )
            self._store.insert(operation, idempotency_key, digest)
            live = Live(registered, params, self._new_progress(), operation, resources)
            log.info("operation %s (%s) accepted from %s", operation.id, kind, actor)
            self._runner.submit(live)
        return live.snapshot(), True

    def started_with(self, key: str | None, kind: str, asked: BaseModel) -> Operation | None:
        """Return the operation that this request started under this key, None without one.

        Raises `IdempotencyMismatch` if the key was used for another request.
        """
        check_key(key)
        return self._started_with(key, digest_of(kind, asked))

    def get(self, operation_id: str) -> Operation:
        """Return an operation with its progress as of now. Raises `UnknownOperation`."""
        live = self._runner.find(operation_id)
        if live is not None:
            return live.snapshot()
        stored = self._store.get(operation_id)
        if stored is None:
            raise UnknownOperation(operation_id)
        return stored

    def open(self, operation_id: str) -> tuple[Operation, BinaryIO | None]:
        """Return an operation, and the file of a large result in place of it.

        The file has JSON. Raises `UnknownOperation`.
        """
        live = self._runner.find(operation_id)
        stored = None if live is not None else self._store.open(operation_id)
        if stored is not None:
            return stored
        return self.get(operation_id), None

    def resolve(self, name: str) -> str:
        """Return the id of the newest operation for `latest`, or the id that begins with `name`.

        Raises `UnknownOperation`, and `RequestError` if several ids begin so.
        """
        if name == LATEST:
            newest = self._store.page(Selection(), 1).operations
            if not newest:
                raise RequestError(Slug.NOT_FOUND, "There is no operation yet.")
            return newest[0].id
        if len(name) == ID_LENGTH or not _BEGINNING.fullmatch(name):
            return name
        found = self._store.find(name.upper())
        if len(found) > 1:
            raise RequestError(Slug.CONFLICT, ambiguous("operations", name, found))
        return found[0] if found else name

    def page(self, selection: Selection, limit: int, before: int | None = None) -> Listed:
        """Return a part of the list of operations, newest first; see `Store.page`."""
        part = self._store.page(selection, limit, before)
        return Listed(
            [self._overlay_summary(operation) for operation in part.operations], part.next
        )

    def list(
        self,
        *,
        kind: str | None = None,
        state: State | None = None,
        limit: int = 50,
    ) -> list[OperationSummary]:
        """Return the newest operations."""
        return self.page(Selection(kind=kind, state=state), limit).operations

    def scope(self, operation_id: str) -> Scope:
        """Return what a caller needs to cancel an operation: as much as to start it.

        Raises `UnknownOperation`.
        """
        try:
            return self.registry.get(self.get(operation_id).kind).scope
        except KeyError:
            # Of a version that knew other kinds: it has ended, and nothing can be cancelled.
            return Scope.OPERATE

    def cancel(self, operation_id: str, *, actor: str | None = None) -> Operation:
        """Ask an operation to end, and return its current state. Idempotent.

        A queued one is cancelled when this returns; a running one within a second. One that has
        ended is returned unchanged. Raises `UnknownOperation`.
        """
        live = self._runner.find(operation_id)
        if live is not None:
            self._runner.cancel(live, actor or "a client")
        return self.get(operation_id)

    async def wait(self, operation_id: str, seconds: float) -> Operation:
        """Return the operation once it has ended, or its state after `seconds`.

        Returns early as well when the daemon is asked to stop. Raises `UnknownOperation`.
        """
        live = self._runner.find(operation_id)
        if live is None or seconds <= 0:
            return await asyncio.to_thread(self.get, operation_id)
        listener = Listener(progress=False)
        live.channel.subscribe(listener)
        try:
            async with asyncio.timeout(seconds):
                latest = live.operation
                while (news := await listener.next()) is not None:
                    latest = news
                return latest
        except TimeoutError:
            return await asyncio.to_thread(self.get, operation_id)
        finally:
            live.channel.unsubscribe(listener)

    async def events(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """Yield the operation now, at each change of state, and each second while it runs.

        Ends after the final state, or when the daemon is asked to stop. Raises `UnknownOperation`.
        Use `contextlib.aclosing` when leaving before its end, so that it leaves nothing behind.
        """
        live = self._runner.find(operation_id)
        if live is None:
            yield await asyncio.to_thread(self.get, operation_id)
            return
        listener = Listener(progress=True)
        live.channel.subscribe(listener)
        try:
            first = await listener.next()
            if first is not None:
                # What was published last may be up to a second old. If the operation has moved on
                # since, the news of that is on its way.
                latest = live.snapshot()
                yield latest if latest.state is first.state is State.RUNNING else first
            while (news := await listener.next()) is not None:
                yield news
        finally:
            live.channel.unsubscribe(listener)

    def listeners(self, operation_id: str) -> int:
        """Count who listens to or waits for an operation now."""
        live = self._runner.find(operation_id)
        return live.channel.listening if live is not None else 0

    def figures(self) -> Mapping[str, KindFigures]:
        """Return what metrics report, by kind. Never blocks on the disk."""
        return self._runner.figures(self.registry.names())

    def shutdown(self, seconds: float) -> None:
        """Start nothing more, cancel what runs, record it, and join the threads.

        Returns within about `seconds`, with everything recorded. Event streams end.
        """
        self._runner.shutdown(seconds)

    def _started_with(self, idempotency_key: str | None, digest: str) -> Operation | None:
        known = None if idempotency_key is None else self._store.by_key(idempotency_key)
        if known is None:
            return None
        existing = self._overlay(known[0])
        if known[1] != digest:
            raise IdempotencyMismatch(existing)
        return existing

    def _overlay(self, stored: Operation) -> Operation:
        """Replace a row by the live operation it is of."""
        live = self._runner.find(stored.id)
        if live is None or live.operation.state is not stored.state:
            return stored
        return live.snapshot()

    def _overlay_summary(self, stored: OperationSummary) -> OperationSummary:
        live = self._runner.find(stored.id)
        if live is None or live.operation.state is not stored.state:
            return stored
        return live.snapshot().summary(LISTED_PARAMS_BYTES)

    def _recover(self, left: Unfinished) -> None:
        operation = left.operation
        was_running = operation.state is State.RUNNING
        try:
            kind = self.registry.get(operation.kind)
            params = kind.params.model_validate(operation.params)
        except (KeyError, ValidationError):
            self._interrupt(operation, "This version of holdfast cannot run it; start a new one.")
            return
        if was_running and not kind.resumable:
            self._interrupt(operation, "The daemon ended without warning while it ran.")
            return
        if was_running and left.crashes + 1 >= MAX_CRASHES:
            self._interrupt(
                operation,
                f"The daemon ended without warning {left.crashes + 1} times while it ran, so it "
                "is not tried again.",
            )
            return
        if not was_running and not left.resumed:
            try:
                admit(kind, operation.actor, self._runner.queued())
            except QueueFullError as error:
                self._interrupt(operation, error.detail)
                return
        if was_running:
            self._store.requeue(operation.id, operation.progress, crashed=True)
            operation = operation.model_copy(update={"state": State.QUEUED})
        live = Live(
            kind,
            params,
            self._new_progress(),
            operation,
            kind.resources(params),
            resumed=was_running or left.resumed,
        )
        log.info("operation %s (%s) is queued again", operation.id, operation.kind)
        self._runner.submit(live)

    def _interrupt(self, operation: Operation, detail: str) -> None:
        log.warning("operation %s (%s) interrupted: %s", operation.id, operation.kind, detail)
        interrupted = operation.model_copy(
            update={
                "state": State.INTERRUPTED,
                "finished_at": now(),
                "error": Problem.of(Slug.INTERRUPTED, detail),
            }
        )
        self._store.finish(interrupted)
        self._spans.ended(interrupted)

    def _prune(self) -> None:
        try:
            forgotten = self._store.prune(self._keep, self._keep_days)
        except StoreError as error:
            log.warning("old operations were not removed: %s", error)
        else:
            if forgotten:
                log.debug("forgot %d old operations", forgotten)
