"""When to call again, and how long to wait before it."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_client.errors import (
    HoldfastError,
    NodeImaging,
    ProblemError,
    TooManyFailures,
    Unreachable,
)

_FOR_NOW = frozenset({429, 502, 503, 504})
"""Statuses of an answer that may be another one soon."""


@dataclass(frozen=True)
class Retries:
    """The budget of one call. Waiting for an operation has a deadline of its own instead."""

    attempts: int = 8
    """How often a request is sent at most; 1 for no retries."""
    seconds: float = 60.0
    """From the first attempt; no retry begins later."""
    base: float = 0.1
    """Upper bound of the pause before the first retry; doubles with each."""
    cap: float = 5.0
    """Upper bound of any pause, unless the node asks for a longer one."""
    lost_only: bool = False
    """Repeat nothing but a request whose answer was lost: a refusal is raised at once."""

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after a number of failures in a row: full jitter."""
        import random  # noqa: PLC0415 - slow to load, and few calls fail

        bound = min(self.cap, self.base * 2 ** min(failures - 1, 30))
        return random.uniform(0.0, bound)  # noqa: S311 - spreads load, protects nothing


def transient(error: HoldfastError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, TooManyFailures):
        return False  # a valid token is let in all the same, so this one is not valid
    if isinstance(error, ProblemError):
        return error.status in _FOR_NOW
    return isinstance(error, Unreachable | NodeImaging)


def at_least(pause: float, error: HoldfastError) -> float:
    """Return the pause, lengthened to what the node asked for."""
    return pause + (getattr(error, "retry_after", None) or 0.0)
