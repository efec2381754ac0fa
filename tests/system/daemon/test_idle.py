"""What the daemon costs while it has nothing to do, and how soon it is there."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from tests.support.daemon.harness import Daemon

pytestmark = pytest.mark.alone

MIB = 1 << 20


def test_it_is_ready_within_a_second_and_a_half(daemon: Daemon) -> None:
    """The best of three starts: what others do on the machine is not the daemon's fault."""
    took = []
    for _ in range(3):
        daemon.stop()
        began = time.monotonic()
        daemon.restart()
        assert daemon.http.get("/readyz").status_code == 200
        took.append(time.monotonic() - began)
    assert min(took) < 1.5, took


@pytest.mark.slow
def test_idle_it_takes_little_memory_and_next_to_no_time(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon()
    daemon.run("/v1/pagecache/dumps", {})
    daemon.http.get("/metrics")
    process = psutil.Process(daemon.pid)

    def busy() -> float:
        times = process.cpu_times()
        return times.user + times.system

    # What a request set off is over after this; from here on nobody asks anything.
    time.sleep(2)
    before, began = busy(), time.monotonic()
    time.sleep(20)
    share = (busy() - before) / (time.monotonic() - began)
    assert share < 0.003, f"{share:.2%} of a core"
    assert process.memory_info().rss < 100 * MIB
