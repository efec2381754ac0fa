"""Runs operations in threads, in the order in which they were asked for.

An operation is live from its acceptance until its outcome is on the disk. Live operations are
served from memory, all others from the store. A thread exists only while it has work, and one more
thread, asleep while nothing runs, takes a progress sample of each operation once a second.

When the daemon is asked to stop, running work is cancelled. What can resume goes back to `queued`
in the record, marked as resumed, which is what it is: waiting for the daemon's next start. What
cannot is `interrupted`. Operations still waiting for their turn stay `queued`. So no record is ever
`running` for an operation that does not run, except those that a crash left; `recover` in
`service.py` settles these before anything else can be asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from holdfast._engine import CancelledError
from holdfast.operations.events import Channel
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import Operation, Problem, ProgressReport, Slug, State, now
from holdfast.operations.outcome import problem_of
from holdfast.operations.progress import Meter
from holdfast.operations.queue import may_run
from holdfast.operations.results import Outcome, outcome_of
from holdfast.operations.statistics import KindFigures, Statistics, add_reports
from holdfast.operations.store import Store, StoreError
from holdfast.process import trace

if TYPE_CHECKING:
    from holdfast._engine import Progress
    from holdfast.telemetry.spans import Spans

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
SAVE_SECONDS = 5.0


@dataclass(eq=False)
class Live:
    """An operation that is queued or running, or whose outcome is not yet on the disk."""

    kind: Kind[Any, Any]
    params: BaseModel
    progress: Progress
    operation: Operation
    resources: frozenset[str]
    resumed: bool = False
    cancelled_by: str | None = None
    meter: Meter | None = None
    channel: Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = Channel(self.operation)

    def snapshot(self) -> Operation:
        """Return the operation with its progress as of now."""
        operation = self.operation
        if self.meter is None or operation.state is not State.RUNNING:
            return operation
        return operation.model_copy(update={"progress": self.meter.report()})


class Runner:
    """Queue, threads and ticker."""

    def __init__(
        self,
        store: Store,
        statistics: Statistics,
        *,
        max_running: int,
        reserve: Callable[[], bool],
        on_end: Callable[[], None],
        spans: Spans,
    ) -> None:
        self._store = store
        self._statistics = statistics
        self._max_running = max_running
        self._reserve = reserve
        self._on_end = on_end
        self._spans = spans
        self._changed = threading.Condition()
        self._live: dict[str, Live] = {}
        self._queue: deque[Live] = deque()
        self._threads: dict[Live, threading.Thread] = {}
        self._unrecorded: list[Live] = []
        self._ticker: threading.Thread | None = None
        self._stopping = False
        self._stopped = False

    @property
    def stopping(self) -> bool:
        """Whether nothing new is started any more."""
        return self._stopping

    def find(self, operation_id: str) -> Live | None:
        """Return a live operation."""
        with self._changed:
            return self._live.get(operation_id)

    def holder(self, resources: frozenset[str]) -> Live | None:
        """Return a queued or running operation that holds one of these resources."""
        with self._changed:
            for live in self._live.values():
                if not live.operation.state.final and live.resources & resources:
                    return live
            return None

    def queued(self) -> list[Operation]:
        """Return the operations that wait for their turn."""
        with self._changed:
            return [live.operation for live in self._queue]

    def submit(self, live: Live) -> None:
        """Queue an operation whose row is in the store."""
        with self._changed:
            self._live[live.operation.id] = live
            self._statistics.accepted(live.kind.name)
            if not self._stopping:
                self._queue.append(live)
        self._dispatch()

    def cancel(self, live: Live, actor: str) -> None:
        """End a queued operation at once, ask a running one to end. Idempotent."""
        with self._changed:
            if live.operation.state.final:
                return
            queued = live in self._queue
            if queued:
                self._queue.remove(live)
            live.cancelled_by = live.cancelled_by or actor
        if queued:
            self._conclude(live, State.CANCELLED, error=_cancelled(live))
        else:
            live.progress.cancel()

    def shutdown(self, seconds: float) -> None:
        """Cancel what runs, record it, and join the threads within about `seconds`. Idempotent."""
        deadline = time.monotonic() + seconds
        with self._changed:
            if self._stopped:
                return
            self._stopping = True
            waiting = list(self._queue)
            self._queue.clear()
            threads = dict(self._threads)
        for live in threads:
            live.progress.cancel()
        for live in waiting:
            live.channel.publish(live.operation, end=True)
        for live, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.error("operation %s did not stop in time", live.operation.id)
                self._suspend(live)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._ticker is not None:
            self._ticker.join(max(0.1, deadline - time.monotonic()))
        self._record_unrecorded()

    def figures(self, kinds: tuple[str, ...]) -> dict[str, KindFigures]:
        """Return the totals of each kind with what runs now added."""
        with self._changed:
            figures = dict(self._statistics.snapshot(kinds))
            running: dict[str, list[Live]] = {}
            for live in self._live.values():
                if live.operation.state is State.RUNNING:
                    running.setdefault(live.kind.name, []).append(live)
        for kind, lives in running.items():
            meters = [live.meter for live in lives if live.meter is not None]
            figure = figures[kind]
            figure.running = len(lives)
            figure.progress = add_reports([meter.report() for meter in meters])
            figure.read_bytes += sum(meter.read_bytes for meter in meters)
            figure.last_progress = max(meter.last_change for meter in meters)
        return figures

    def _dispatch(self) -> None:
        """Give queued operations a thread while there are free slots."""
        while True:
            with self._changed:
                live = None if self._stopping else self._next()
                if live is None:
                    return
                self._queue.remove(live)
                try:
                    self._start_threads(live)
                except RuntimeError as error:
                    reason = str(error)
                else:
                    continue
            log.error("no thread for operation %s: %s", live.operation.id, reason)
            problem = Problem.of(Slug.UNAVAILABLE, f"The system gives no thread: {reason}.")
            self._conclude(live, State.FAILED, error=problem)

    def _next(self) -> Live | None:
        """Choose whose turn it is, if there is a place."""
        running = [live.kind for live in self._threads]
        for live in self._queue:
            if may_run(live.kind, running, places=self._max_running, reserve=self._reserve()):
                return live
        return None

    def _start_threads(self, live: Live) -> None:
        # Under the lock, so that a shutdown only ever sees threads that it can join. They are
        # daemon threads: one that is stuck in the kernel must not keep the process from ending.
        if self._ticker is None:
            ticker = threading.Thread(
                target=self._tick_forever, name="operations-ticker", daemon=True
            )
            ticker.start()
            self._ticker = ticker
        thread = threading.Thread(target=self._work, args=(live,), name=live.kind.name, daemon=True)
        thread.start()
        self._threads[live] = thread

    def _work(self, live: Live) -> None:
        """Run one operation: the body of its thread."""
        try:
            if self._begin(live):
                self._execute(live)
        finally:
            with self._changed:
                del self._threads[live]
            self._dispatch()

    def _begin(self, live: Live) -> bool:
        started = now()
        try:
            was_queued = self._store.begin(live.operation.id, started)
        except StoreError as error:
            log.error("operation %s was not started: %s", live.operation.id, error)
            self._conclude(live, State.FAILED, error=Problem.of(error.slug, error.detail))
            return False
        if not was_queued:
            log.error("operation %s is not queued in the record", live.operation.id)
            problem = Problem.of(Slug.INTERNAL, "The record shows that this was not queued.")
            self._conclude(live, State.FAILED, error=problem)
            return False
        with self._changed:
            live.meter = Meter(live.progress, rate=live.kind.rate)
            live.operation = live.operation.model_copy(
                update={
                    "state": State.RUNNING,
                    "started_at": live.operation.started_at or started,
                    "progress": ProgressReport(),
                }
            )
            self._changed.notify_all()
        log.info("operation %s (%s) %s", live.operation.id, live.kind.name, _verb(live))
        live.channel.publish(live.operation)
        return True

    def _execute(self, live: Live) -> None:
        try:
            if live.progress.cancelled:
                raise CancelledError("cancelled before it began")
            context = Context(
                live.operation.id,
                live.params,
                live.progress,
                live.resumed,
                will_resume=lambda: self._will_resume(live),
            )
            received = live.operation.traceparent
            span = self._spans.within(live.operation.id, received)
            with trace.belonging(received or span, span):
                result = live.kind.run(context)
            if not isinstance(result, live.kind.result):
                raise TypeError(f"{live.kind.name} returned {type(result).__name__}")
            dumped = result.model_dump(mode="json")
            outcome = outcome_of(result)
        except CancelledError:
            if self._stopping and live.cancelled_by is None:
                self._suspend(live)
            else:
                self._conclude(live, State.CANCELLED, error=_cancelled(live))
        except BaseException as error:  # whatever it is, the operation ended with it
            self._conclude(live, State.FAILED, error=problem_of(error, live.operation.id))
        else:
            self._conclude(live, State.SUCCEEDED, outcome=outcome, result=dumped)

    def _will_resume(self, live: Live) -> bool:
        return self._stopping and live.cancelled_by is None and live.kind.resumable

    def _suspend(self, live: Live) -> None:
        """Settle work that the end of the daemon cut short."""
        if not live.kind.resumable:
            detail = "The daemon was stopped while this ran; start it again."
            self._conclude(live, State.INTERRUPTED, error=Problem.of(Slug.INTERRUPTED, detail))
            return
        progress = live.meter.final() if live.meter is not None else live.operation.progress
        operation = live.operation.model_copy(update={"state": State.QUEUED, "progress": progress})
        try:
            self._store.requeue(operation.id, progress, crashed=False)
        except StoreError as error:
            # The row is still `running`, and the next start resumes it as after a crash.
            log.error("operation %s could not be put back in the queue: %s", operation.id, error)
        with self._changed:
            live.operation = operation
        log.info("operation %s (%s) will resume", operation.id, live.kind.name)
        live.channel.publish(operation, end=True)

    def _conclude(
        self,
        live: Live,
        state: State,
        *,
        outcome: Outcome | None = None,
        result: dict[str, Any] | None = None,
        error: Problem | None = None,
    ) -> None:
        """Record the outcome, then publish it."""
        ran = live.meter
        finished = now()
        operation = live.operation.model_copy(
            update={
                "state": state,
                "outcome": outcome,
                "finished_at": finished,
                "progress": ran.final() if ran is not None else live.operation.progress,
                "result": result,
                "error": error,
            }
        )
        recorded = self._record(operation)
        started = operation.started_at
        with self._changed:
            live.operation = operation
            self._statistics.ended(
                live.kind.name,
                state,
                outcome,
                progress=operation.progress if ran is not None else None,
                read_bytes=ran.read_bytes if ran is not None else 0,
                last_progress=ran.last_change if ran is not None else None,
                at=finished.timestamp(),
                seconds=(finished - started).total_seconds() if started else None,
            )
            if recorded:
                self._live.pop(operation.id, None)
            else:
                self._unrecorded.append(live)
        log.info(
            "operation %s (%s) %s%s",
            operation.id,
            live.kind.name,
            operation.verdict,
            f": {error.detail}" if error is not None else "",
        )
        live.channel.publish(operation, end=True)
        self._spans.ended(operation)
        if recorded:
            self._on_end()

    def _record(self, operation: Operation) -> bool:
        try:
            if not self._store.finish(operation):
                log.error("operation %s was settled before in the record", operation.id)
        except StoreError as error:
            log.error("the outcome of operation %s is not recorded: %s", operation.id, error)
            return False
        return True

    def _record_unrecorded(self) -> None:
        """Try again to record outcomes that could not be, for example on a full disk."""
        with self._changed:
            waiting = list(self._unrecorded)
        for live in waiting:
            if self._record(live.operation):
                with self._changed:
                    self._unrecorded.remove(live)
                    self._live.pop(live.operation.id, None)

    def _tick_forever(self) -> None:
        """Sample and publish once a second while anything runs; sleep otherwise."""
        next_tick = next_save = 0.0
        while True:
            with self._changed:
                if self._stopped:
                    return
                running = [
                    live
                    for live in self._live.values()
                    if live.operation.state is State.RUNNING and live.meter is not None
                ]
                if not running and not self._unrecorded:
                    self._changed.wait()
                    next_tick = time.monotonic() + TICK_SECONDS
                    next_save = time.monotonic() + SAVE_SECONDS
                    continue
                left = next_tick - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
            # After a pause, for example of the whole machine, missed ticks are not made up for.
            next_tick = max(next_tick + TICK_SECONDS, time.monotonic())
            reports = [(live, live.meter.sample()) for live in running if live.meter is not None]
            for live, report in reports:
                if live.channel.wants_progress:
                    self._publish_progress(live, report)
            if time.monotonic() >= next_save:
                next_save = time.monotonic() + SAVE_SECONDS
                for live, report in reports:
                    self._store.save_progress(live.operation.id, report)
                self._record_unrecorded()

    def _publish_progress(self, live: Live, report: ProgressReport) -> None:
        operation = live.operation
        if operation.state is State.RUNNING:
            live.channel.publish(operation.model_copy(update={"progress": report}))


def _cancelled(live: Live) -> Problem:
    by = live.cancelled_by
    return Problem.of(
        Slug.CANCELLED, f"Cancelled at the request of {by}." if by else "The work was cancelled."
    )


def _verb(live: Live) -> str:
    return "resumes" if live.resumed else "runs"
