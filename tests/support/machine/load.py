"""Load on devices."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import until


def stalled(pressure: Path) -> float:
    """For how many seconds some task has waited for a device so far."""
    line = pressure.read_text().splitlines()[0]
    return int(line.rpartition("total=")[2]) / 1e6


@contextmanager
def device_under_load(path: Path, group: Path | None = None) -> Iterator[None]:
    """Have processes read a file past the page cache, so that some of them always waits.

    `group` is the directory of a control group for them to be in.
    """
    pressure = Path("/proc/pressure/io") if group is None else group / "io.pressure"
    if not os.access(pressure, os.R_OK):
        pytest.skip("this kernel does not report pressure")
    enter = "" if group is None else 'echo $$ > "$1/cgroup.procs"; '
    script = 'while :; do dd "if=$0" of=/dev/null bs=256K iflag=direct 2>/dev/null; done'
    command = ["bash", "-c", enter + script, str(path), str(group or "")]
    processes = [subprocess.Popen(command, process_group=0) for _ in range(4)]
    try:
        seen = [(time.monotonic(), stalled(pressure))]

        def mostly_waiting() -> bool:
            seen.append((time.monotonic(), stalled(pressure)))
            (before, less), (now, more) = seen[-2:]
            return more - less > 0.5 * (now - before)

        until(mostly_waiting, seconds=10, interval=0.5, what="pressure on the device")
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, 9)
            process.wait()
