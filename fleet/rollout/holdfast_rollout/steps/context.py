"""What a step has: the inventory, the world, and patience with nodes that do not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from holdfast_rollout.interfaces import (
    Away,
    Board,
    Clock,
    Json,
    NodeApi,
    Refused,
    Surroundings,
)
from holdfast_rollout.inventory import Inventory

_T = TypeVar("_T")


@dataclass
class Context:
    """The world of a roll, as its steps reach it."""

    inventory: Inventory
    nodes: Callable[[str], NodeApi]
    clock: Clock
    surroundings: Surroundings
    board: Board
    heartbeat: Callable[[], None] = lambda: None
    """Called at each turn of a step that waits."""


class Pace:
    """Spaces the requests to one node while it is waited for, and ends by a deadline."""

    def __init__(self, context: Context, node: str, seconds: float) -> None:
        self._context = context
        self._node = node
        self._last = float("-inf")
        self.deadline = context.clock.now() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline, not below 0."""
        return max(0.0, self.deadline - self._context.clock.now())

    async def turn(self, at_least: float = 0.0) -> bool:
        """Wait until the next request may be sent; return False if the deadline is before that.

        The first one always may: a controller that was away for long has still to look once.
        `at_least` is how many seconds from now the node asked to be left alone.
        """
        clock = self._context.clock
        poll = self._context.inventory.times.poll
        moment = max(self._last + poll, clock.now() + at_least)
        if moment > self.deadline and self._last > float("-inf"):
            await clock.sleep(self.left)
            return False
        await clock.sleep(max(0.0, moment - clock.now()))
        self._last = clock.now()
        self._context.heartbeat()
        self._context.board.requested(self._node)
        return True


async def insist(
    context: Context, node: str, call: Callable[[], Awaitable[_T]], seconds: float | None = None
) -> _T:
    """Return what a call returns once the node answers; each is safe to repeat by its key.

    `seconds` is how long it is tried, `times.answer` of the inventory by default. Raises the last
    `Away`, and `Refused` unless the node said when to try again.
    """
    pace = Pace(context, node, context.inventory.times.answer if seconds is None else seconds)
    last: Away | Refused = Away(f"{node} was not called in time.")
    pause = 0.0
    while await pace.turn(pause):
        try:
            return await call()
        except Away as error:
            last, pause = error, 0.0
        except Refused as error:
            if error.retry_after is None or error.gate is not None:
                raise
            last, pause = error, error.retry_after
    raise last


def ended(outcome: str, reason: str, *, disturbed: bool = False) -> Json:
    """Build the result of a step after which the node's roll ends.

    `outcome` is `done`, `failed` or `unknown`; `disturbed` that the node is not fit to serve.
    """
    return {"verdict": "end", "outcome": outcome, "reason": reason, "disturbed": disturbed}


def passed(**members: object) -> Json:
    """Build the result of a step after which the next one is taken."""
    return {"verdict": "go", **members}
