"""Waiting for and listening to operations from asyncio."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations.events import Listener
from holdfast.operations.model import Operation, State, UnknownOperation
from holdfast.operations.service import Operations
from tests.support.daemon.operations import Params, Work, directed, kind_of, operations
from tests.support.waiting import until


def start(service: Operations) -> Operation:
    return service.start("test.work", Params(), actor="tester")[0]


async def listen(service: Operations, operation_id: str) -> list[Operation]:
    return [news async for news in service.events(operation_id)]


async def began(work: Work) -> Any:
    return await asyncio.to_thread(work.wait_begun)


def states(news: list[Operation]) -> list[str]:
    """The states in their order, each once."""
    return list(dict.fromkeys(update.state.value for update in news))


def test_events_tell_every_state_and_end_with_the_final_one(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        blocking = start(service)
        first = await began(work)
        queued = start(service)
        listener = asyncio.create_task(listen(service, queued.id))
        await asyncio.sleep(0)
        work.release(first)
        second = await began(work)
        directed(second).bytes_done = 77
        work.release(second)
        news = await listener
        assert states(news) == ["queued", "running", "succeeded"]
        assert news[-1].result == {"name": "one"}
        assert news[-1].progress.bytes_done == 77
        assert await listen(service, blocking.id) == [service.get(blocking.id)]
        assert service.listeners(queued.id) == 0

    with operations(tmp_path, kind_of(work), max_running=1) as service:
        asyncio.run(main(service))


def test_running_work_is_reported_every_second(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        operation = start(service)
        counters = directed(await began(work))
        async with aclosing(service.events(operation.id)) as events:
            moments = []
            async for news in events:
                moments.append(time.monotonic())
                counters.bytes_done += 10
                assert news.state is State.RUNNING
                if len(moments) == 4:
                    break
            # The first comes at once; then one a second, of which the first is in phase with the
            # others rather than with the listener.
            assert moments[1] - moments[0] < 1.5
            for earlier, later in pairwise(moments[1:]):
                assert later - earlier == pytest.approx(1.0, abs=0.5)
            assert news.progress.bytes_per_second > 0
        work.release_all()

    with operations(tmp_path, kind_of(work)) as service:
        asyncio.run(main(service))


def test_wait_returns_at_the_end_or_when_time_is_up(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        operation = start(service)
        context = await began(work)
        assert (await service.wait(operation.id, 0)).state is State.RUNNING
        assert (await service.wait(operation.id, 0.05)).state is State.RUNNING
        waiting = asyncio.create_task(service.wait(operation.id, 30))
        await asyncio.sleep(0)
        assert service.listeners(operation.id) == 1
        work.release(context)
        assert (await waiting).state is State.SUCCEEDED
        assert (await service.wait(operation.id, 30)).state is State.SUCCEEDED
        assert service.listeners(operation.id) == 0

    with operations(tmp_path, kind_of(work)) as service:
        asyncio.run(main(service))


def test_unknown_operations_are_named(tmp_path: Path) -> None:
    async def main(service: Operations) -> None:
        with pytest.raises(UnknownOperation):
            await service.wait("nothing", 1)
        with pytest.raises(UnknownOperation):
            await listen(service, "nothing")

    with operations(tmp_path, kind_of(Work())) as service:
        asyncio.run(main(service))


def test_two_hundred_listeners_share_one_clock_and_all_hear_the_end(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        operation = start(service)
        context = await began(work)
        tasks = [asyncio.create_task(listen(service, operation.id)) for _ in range(200)]
        await asyncio.sleep(0)
        assert service.listeners(operation.id) == 200
        work.release(context)
        for news in await asyncio.gather(*tasks):
            assert news[-1].state is State.SUCCEEDED
        assert service.listeners(operation.id) == 0

    with operations(tmp_path, kind_of(work)) as service:
        asyncio.run(main(service))


def test_listeners_that_hang_up_leave_nothing_behind(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        operation = start(service)
        await began(work)
        tasks = [asyncio.create_task(listen(service, operation.id)) for _ in range(20)]
        tasks += [
            asyncio.create_task(service.wait(operation.id, 30))  # type: ignore[arg-type]
            for _ in range(20)
        ]
        await asyncio.sleep(0)
        assert service.listeners(operation.id) == 40
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert service.listeners(operation.id) == 0
        assert service.get(operation.id).state is State.RUNNING
        work.release_all()

    with operations(tmp_path, kind_of(work)) as service:
        asyncio.run(main(service))


def test_a_slow_listener_skips_progress_but_no_state(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        blocking = start(service)
        await began(work)
        operation = start(service)
        async with aclosing(service.events(operation.id)) as events:
            assert (await anext(events)).state is State.QUEUED
            service.cancel(blocking.id)
            context = await began(work)
            channel = service._runner.find(operation.id)
            assert channel is not None
            for _ in range(100):
                channel.channel.publish(service.get(operation.id))
            work.release(context)
            await asyncio.to_thread(lambda: None)
            left = [news async for news in events]
        assert states(left) == ["running", "succeeded"]
        assert len(left) < 10

    with operations(tmp_path, kind_of(work), max_running=1) as service:
        asyncio.run(main(service))


def test_streams_and_waits_end_when_the_daemon_stops(tmp_path: Path) -> None:
    work = Work()

    async def main(service: Operations) -> None:
        running = start(service)
        await began(work)
        queued = start(service)
        listeners = [
            asyncio.create_task(listen(service, operation.id)) for operation in (running, queued)
        ]
        waits = [
            asyncio.create_task(service.wait(operation.id, 60)) for operation in (running, queued)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(service.shutdown, 5.0)
        async with asyncio.timeout(5):
            heard = await asyncio.gather(*listeners)
            waited = await asyncio.gather(*waits)
        # Both are put off to the next start.
        assert [news[-1].state for news in heard] == [State.QUEUED, State.QUEUED]
        assert [operation.state for operation in waited] == [State.QUEUED, State.QUEUED]

    with operations(tmp_path, kind_of(work, resumable=True), max_running=1) as service:
        asyncio.run(main(service))


def test_a_loop_that_is_gone_does_not_hold_up_the_work(tmp_path: Path) -> None:
    work = Work()
    with operations(tmp_path, kind_of(work)) as service:
        operation = start(service)
        context = work.wait_begun()

        async def leave() -> None:
            live = service._runner.find(operation.id)
            assert live is not None
            live.channel.subscribe(Listener(progress=True))

        asyncio.run(leave())
        assert service.listeners(operation.id) == 1
        work.release(context)
        until(lambda: service.get(operation.id).state.final, what="the end of the work")
        assert service.get(operation.id).state is State.SUCCEEDED
