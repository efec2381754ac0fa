"""A root that hangs holds nobody who asks how the daemon is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.process.readiness import STALE_SECONDS, Readiness
from tests.support.daemon.api import replace, served


def wait_for(readiness: Readiness) -> None:
    done = threading.Event()
    readiness.refresh(done.set)
    assert done.wait(10)


def test_each_question_gets_a_new_observation() -> None:
    now = 0.0
    found = ["no volume"]
    readiness = Readiness(lambda: list(found), lambda: now)
    wait_for(readiness)
    assert readiness.reasons() == ("no volume",)
    found.clear()
    now += 1
    assert readiness.age() == 1
    wait_for(readiness)
    assert readiness.reasons() == ()


def test_an_observation_that_fails_is_a_reason() -> None:
    def fail() -> list[str]:
        raise OSError(5, "Input/output error")

    readiness = Readiness(fail)
    wait_for(readiness)
    assert "could not be checked" in readiness.reasons()[0]


@pytest.fixture
def hang() -> Callable[[], list[str]]:
    entered, release = threading.Event(), threading.Event()

    def observe() -> list[str]:
        entered.set()
        release.wait(30)
        return []

    observe.entered = entered  # type: ignore[attr-defined]
    observe.release = release  # type: ignore[attr-defined]
    return observe


def test_one_that_hangs_is_named_with_its_age(hang: Callable[[], list[str]]) -> None:
    now = 0.0
    readiness = Readiness(hang, lambda: now)
    readiness.refresh(lambda: None)
    assert hang.entered.wait(10)  # type: ignore[attr-defined]
    assert readiness.reasons() == ()
    now = STALE_SECONDS + 2
    assert "have not answered for 7 s" in readiness.reasons()[0]
    # From now on nobody waits.
    called: list[int] = []
    for number in range(1000):
        readiness.refresh(lambda number=number: called.append(number))  # type: ignore[misc]
    assert called == list(range(1000))
    hang.release.set()  # type: ignore[attr-defined]


def test_monitoring_is_answered_while_a_root_hangs(
    tmp_path: Path, hang: Callable[[], list[str]]
) -> None:
    readiness = Readiness(hang)
    try:
        with (
            served(
                tmp_path,
                change=lambda services: replace(
                    services, degraded=readiness.reasons, refresh=readiness.refresh
                ),
            ) as server,
            server.http() as http,
        ):
            for path in ("/healthz", "/readyz", "/metrics", "/"):
                begin = time.monotonic()
                assert http.get(path).status_code == 200
                assert time.monotonic() - begin < 5
    finally:
        hang.release.set()  # type: ignore[attr-defined]
