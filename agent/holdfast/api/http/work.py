"""Work on behalf of a request: in pools apart, and cancelled once its client goes away.

Each kind of work has threads of its own, so that none waits for another: what ends work (`cancel`,
`disarm`) is served while all conversions, plans and inspections are busy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from enum import StrEnum
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from holdfast._engine import Progress
from holdfast.api.http.problems import refuse
from holdfast.operations.model import Slug

T = TypeVar("T")


class Pool(StrEnum):
    """The kinds of work."""

    ACTS = "acts"
    """What changes the state of the machine or of an operation, and is awaited by a person."""
    STARTS = "starts"
    """The check whether an operation can be started, and the call that queues it."""
    READS = "reads"
    """Lists, descriptions and pieces of record files."""
    CONVERSIONS = "conversions"
    """Records in other forms."""
    UPLOADS = "uploads"
    PLANS = "plans"
    """Plans of re-imaging, which wait for servers."""
    IMAGES = "images"
    """Pieces of the staged image, for other nodes."""
    RESIDENCY = "residency"
    """Walks of whole trees for callers who ask for residency."""


THREADS = {
    Pool.ACTS: 4,
    Pool.STARTS: 4,
    Pool.READS: 8,
    Pool.CONVERSIONS: 2,
    Pool.UPLOADS: 4,
    Pool.PLANS: 2,
    Pool.IMAGES: 2,
    Pool.RESIDENCY: 2,
}


class Turns:
    """Bounds what runs at the same time, in total and for each caller."""

    def __init__(self, what: str, *, total: int, each: int, wait: float) -> None:
        """Let a caller wait up to `wait` seconds for a turn; `what` is a plural for messages."""
        self._what = what
        self._total, self._each, self._wait = total, each, wait
        self._running: Counter[str] = Counter()
        self._waiting: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def turn(self, caller: str, request: Request | None = None) -> AsyncIterator[None]:
        """Wait for a turn, and give it back at the end. Raises `ProblemError` after `wait`.

        Waits no longer than the client of `request`, whose body was read, and the server do.
        """
        try:
            async with asyncio.timeout(self._wait):
                while not self._free(caller):
                    change = self._change()
                    await (change if request is None else attended(request, change))
        except TimeoutError:
            raise refuse(
                Slug.UNAVAILABLE,
                f"There are too many {self._what} at the moment: {self._total} are allowed at a "
                f"time, {self._each} of one caller; try again when another one has ended.",
                headers={"Retry-After": "5"},
            ) from None
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1
            self._running += Counter()  # forget callers who have none
            for waiting in tuple(self._waiting):
                if not waiting.done():
                    waiting.set_result(None)

    def _free(self, caller: str) -> bool:
        return self._running.total() < self._total and self._running[caller] < self._each

    def _change(self) -> asyncio.Future[None]:
        """Return the callback for the release of a turn."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(change)
        change.add_done_callback(self._waiting.discard)
        return change


class Pace:
    """Finds the other end of a connection too slow: it would hold what others wait for."""

    SECONDS = 30.0
    BYTES = 1 << 20
    """What has to be moved within that time, while it is the other end that is waited for."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._moved = 0

    @asynccontextmanager
    async def waiting(self, count: int = 0) -> AsyncIterator[None]:
        """Wait for the other end, to which `count` bytes go. Raises `TimeoutError`."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.timeout(self.SECONDS - self._waited):
            yield
        self._waited += loop.time() - start
        self.moved(count)

    def moved(self, count: int) -> None:
        """Count bytes that were moved."""
        self._moved += count
        if self._moved >= self.BYTES:
            self._moved, self._waited = 0, 0.0


class Work:
    """The pools of one application."""

    def __init__(self) -> None:
        self._executors = {
            pool: ThreadPoolExecutor(THREADS[pool], thread_name_prefix=pool.value) for pool in Pool
        }
        self.conversions = Turns("conversions of records", total=2, each=1, wait=30.0)
        self.uploads = Turns("uploads", total=4, each=2, wait=10.0)
        # All peers may have one token.
        self.images = Turns("downloads of the image", total=4, each=4, wait=1.0)
        self.plans = Turns("plans of re-imaging", total=2, each=1, wait=30.0)

    def submit(self, pool: Pool, call: Callable[[], T]) -> asyncio.Future[T]:
        """Have a thread of a pool make a call; cancelling drops one that has not started."""
        context = copy_context()  # the trace that the request belongs to
        return asyncio.get_running_loop().run_in_executor(
            self._executors[pool], lambda: context.run(call)
        )

    def close(self) -> None:
        """Begin no more work. What runs is not waited for."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


def work_of(request: Request) -> Work:
    """Return the pools of the application that a request came to."""
    work: Work = request.app.state.work
    return work


async def act(request: Request, call: Callable[[], T], pool: Pool = Pool.ACTS) -> T:
    """Make a call in a thread of its pool. One that has started runs to its end."""
    return await work_of(request).submit(pool, call)


async def run(
    request: Request,
    pool: Pool,
    call: Callable[[Progress], T],
    *,
    seconds: float | None = None,
) -> T:
    """Make a call in a thread of a pool, and cancel it when the client goes or the server stops.

    Also after `seconds`, with the time that it waited for a thread. Raises `ClientDisconnect`,
    `ProblemError`.
    """
    progress = Progress()
    try:
        return await attended(
            request, work_of(request).submit(pool, lambda: call(progress)), seconds=seconds
        )
    finally:
        progress.cancel()


async def attended(
    request: Request, future: asyncio.Future[T], *, seconds: float | None = None
) -> T:
    """Await a future, and cancel it when the client goes or the server stops; see `run`."""
    stopping: asyncio.Event = request.app.state.stopping
    client, stop = asyncio.ensure_future(gone(request)), asyncio.ensure_future(stopping.wait())
    either: set[asyncio.Future[Any]] = {future, client, stop}
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if client.done():
            raise ClientDisconnect
        if stop.done():
            raise refuse(Slug.UNAVAILABLE, "The daemon is stopping; try again when it is back.")
        raise refuse(
            Slug.UNAVAILABLE,
            f"This took longer than the {seconds:g} s that it may take; try again later.",
        )
    finally:
        future.cancel()
        for waited in (client, stop):
            waited.cancel()
        await asyncio.gather(client, stop, return_exceptions=True)


async def gone(request: Request) -> None:
    """Return once the client hung up; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
