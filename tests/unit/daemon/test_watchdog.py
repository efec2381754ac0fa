"""systemd hears of the loop what is true."""

# ruff: noqa: ASYNC110, ASYNC251 - the loop is held up on purpose, and another thread is waited for

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from holdfast.process import logs
from holdfast.process.watchdog import Watchdog


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moments: list[float] = []
    monkeypatch.setattr(logs, "notify", lambda _: moments.append(time.monotonic()))
    monkeypatch.setattr(logs, "watchdog_seconds", lambda: 0.2)
    return moments


def run(main: Any) -> None:
    asyncio.run(main())


def test_a_late_answer_is_reported_at_once_and_none_before_it(beats: list[float]) -> None:
    held: list[float] = []

    async def main() -> None:
        watchdog = Watchdog.start(asyncio.get_running_loop())
        assert watchdog is not None
        while len(beats) < 3:
            await asyncio.sleep(0.01)
        held.append(time.monotonic())
        time.sleep(1.0)  # the loop does not turn
        held.append(time.monotonic())
        seen = len(beats)
        while len(beats) == seen:
            await asyncio.sleep(0.01)
        watchdog.stop()

    run(main)
    begin, end = held
    # One may have been asked for just before.
    assert len([beat for beat in beats if begin + 0.15 < beat < end]) == 0
    assert min(beat for beat in beats if beat >= end) - end < 1.0


def test_the_thread_ends_with_the_loop(beats: list[float]) -> None:
    async def main() -> None:
        assert Watchdog.start(asyncio.get_running_loop()) is not None
        while not beats:
            await asyncio.sleep(0.01)

    run(main)
    deadline = time.monotonic() + 10
    while any(thread.name == "watchdog" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_there_is_none_where_systemd_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    loop = asyncio.new_event_loop()
    assert Watchdog.start(loop) is None
    loop.close()
