"""Wait for a condition that announces itself with no event, with a deadline instead of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | bool | None],
    *,
    seconds: float = 30.0,
    what: str = "the condition",
    interval: float = 0.01,
) -> T:
    """Call `condition` until it answers something true, and answer that.

    Raises `TimeoutError` naming `what` once `seconds` have passed. For use only where there is
    truly no event to wait for.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value  # type: ignore[return-value]  # a true value is a T
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} did not come about within {seconds:g} s")
        time.sleep(interval)
