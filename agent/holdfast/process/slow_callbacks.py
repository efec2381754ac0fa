"""A check for tests: which callbacks keep the event loop from everything else.

asyncio's own check (debug mode) counts wall time, in which a busy machine runs other processes.
This one counts the processor time of the loop's thread, and is off unless a variable of the
environment turns it on.
"""

from __future__ import annotations

import logging
import os
import time
from asyncio import events
from typing import Any

log = logging.getLogger(__name__)

VARIABLE = "HOLDFAST_TEST_SLOW_CALLBACK_SECONDS"
_MAX_TEXT = 300


def install() -> None:
    """Log an error for each callback that takes more seconds than `VARIABLE` sets, if it is set."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return
    limit = float(text)
    handles: Any = events.Handle
    run = handles._run

    def measured(handle: Any) -> None:
        begin = time.thread_time()
        run(handle)
        seconds = time.thread_time() - begin
        if seconds > limit:
            log.error("slow callback: %.1f ms in %s", seconds * 1000, _describe(handle))

    handles._run = measured


def _describe(handle: Any) -> str:
    """Name the task that a callback is a step of, where it is one."""
    task = getattr(handle._callback, "__self__", None)
    return repr(task if task is not None else handle)[:_MAX_TEXT]
