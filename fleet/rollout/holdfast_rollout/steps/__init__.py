"""The steps of a roll, by name: the same code for every engine, and for the simulation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from holdfast_rollout.interfaces import Json
from holdfast_rollout.steps import disturbing, preparing, settling
from holdfast_rollout.steps.context import Context

Step = Callable[[Context, Json], Awaitable[Json]]

STEPS: Mapping[str, Step] = {
    step.__name__: step
    for step in (
        preparing.check,
        preparing.stage,
        preparing.cancel,
        disturbing.drain,
        disturbing.arm,
        disturbing.disarm,
        disturbing.reboot,
        disturbing.follow,
        disturbing.release,
        settling.gate,
        settling.confirm,
        settling.verify,
        settling.rollback,
        settling.facts,
        settling.notify,
    )
}

__all__ = ["STEPS", "Context", "Step"]
