"""Runs one call of the engine in a process of its own, and reports its cost.

`python -m tests.bench.worker` reads a JSON document from standard input and writes one to standard
output. In a process of its own, as its memory is to be that of the call, and its processors may be
fewer than the machine's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from holdfast import _engine
from tests.bench.machine import peak_memory

_SAMPLE_SECONDS = 0.01


def work(call: str, request: dict[str, Any]) -> dict[str, Any]:
    """Call the engine, and look every ten milliseconds at how far it is."""
    progress = _engine.Progress()
    samples: list[tuple[float, int, str]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            samples.append((time.monotonic() - began, progress.bytes_done, progress.phase))

    sampler = threading.Thread(target=sample)
    before = os.times()
    began = time.monotonic()
    sampler.start()
    outcome = json.loads(getattr(_engine, call)(json.dumps(request), progress))
    seconds = time.monotonic() - began
    after = os.times()
    ended.set()
    sampler.join()
    return {
        "seconds": seconds,
        "processor_seconds": after.user + after.system - before.user - before.system,
        "peak_memory": peak_memory(os.getpid()),
        "samples": samples,
        "outcome": outcome,
    }


def main() -> None:
    """Do what standard input asks for."""
    asked = json.load(sys.stdin)
    if asked["processors"] is not None:
        os.sched_setaffinity(0, asked["processors"])
    json.dump(work(asked["call"], asked["request"]), sys.stdout)


if __name__ == "__main__":
    main()
