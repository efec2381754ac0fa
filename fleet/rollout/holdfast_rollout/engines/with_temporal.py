"""Rolls for those who run Temporal: the steps as activities, and the same two workflows.

A worker of a task queue is made of `WORKFLOWS` and `activities_of(context)`; a roll is started with
the inventory as its argument and its name as its id, and commanded with the signal `mailbox`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from holdfast_rollout.interfaces import Json
    from holdfast_rollout.node_roll import roll_node
    from holdfast_rollout.roll import roll_fleet
    from holdfast_rollout.steps import STEPS, Context, Step

_LONGEST = timedelta(days=2)
"""A step has deadlines of its own, from the inventory."""
_SILENCE = timedelta(seconds=60)
"""Without a heartbeat for so long, a worker counts as dead, and the step is taken by another."""
_BEAT_SECONDS = 10.0


class TemporalEngine:
    """The engine as one workflow sees it."""

    def __init__(self) -> None:
        self.mailbox: deque[Json] = deque()
        self.shown: Json = {}

    async def step(self, name: str, arguments: Json) -> Json:
        """Run a step as an activity."""
        result: Json = await workflow.execute_activity(
            name,
            arguments,
            start_to_close_timeout=_LONGEST,
            heartbeat_timeout=_SILENCE,
            result_type=dict,
        )
        return result

    async def start_node(self, workflow_id: str, job: Json) -> None:
        """Start the workflow of a node, once for each id; it outlives that of the roll."""
        await workflow.start_child_workflow(
            NodeWorkflow.run,
            job,
            id=workflow_id,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )

    async def send(self, workflow_id: str, message: Json) -> None:
        """Signal a workflow."""
        await workflow.get_external_workflow_handle(workflow_id).signal("mailbox", message)

    async def receive(self, seconds: float) -> Json | None:
        """Take the oldest signal; None if none came in time."""
        if not self.mailbox and seconds > 0:
            try:
                await workflow.wait_condition(
                    lambda: bool(self.mailbox), timeout=timedelta(seconds=seconds)
                )
            except TimeoutError:
                return None
        return self.mailbox.popleft() if self.mailbox else None

    async def now(self) -> float:
        """Return the POSIX time of the workflow."""
        return workflow.time()

    async def sleep(self, seconds: float) -> None:
        """Wait, by a timer of the server."""
        await workflow.sleep(max(0.0, seconds))

    async def publish(self, key: str, members: Json) -> None:
        """Keep where the workflow is, for the query `shown`."""
        self.shown[key] = members


class _Mailbox:
    """What both workflows have: the signal `mailbox`, and the query `shown`."""

    def __init__(self) -> None:
        self._engine = TemporalEngine()

    @workflow.signal(name="mailbox")
    async def put(self, message: Json) -> None:
        """Take a message: of another workflow, or a command such as `pause`."""
        self._engine.mailbox.append(message)

    @workflow.query(name="shown")
    def show(self) -> Json:
        """Return where it is: `roll`, or `node:NAME`."""
        return self._engine.shown


@workflow.defn(name="holdfast.node")
class NodeWorkflow(_Mailbox):
    """The workflow of a node."""

    @workflow.run
    async def run(self, job: Json) -> Json:
        """Roll one node."""
        return await roll_node(self._engine, job)


@workflow.defn(name="holdfast.roll")
class RollWorkflow(_Mailbox):
    """The workflow of a roll."""

    @workflow.run
    async def run(self, document: Json) -> Json:
        """Roll all nodes of an inventory."""
        return await roll_fleet(self._engine, document)


WORKFLOWS: Sequence[type] = (RollWorkflow, NodeWorkflow)


def activities_of(context: Context) -> list[Callable[[Json], Awaitable[Json]]]:
    """Return the steps as activities, each under its own name, for a worker."""
    return [_activity(name, step, context) for name, step in STEPS.items()]


def _activity(name: str, step: Step, context: Context) -> Callable[[Json], Awaitable[Json]]:
    @activity.defn(name=name)
    async def take(arguments: Json) -> Json:
        async with _beating():
            try:
                return await step(context, arguments)
            except Exception as error:
                # A fault of the code does not pass by itself; the node's workflow reports it.
                text = f"{type(error).__name__}: {error}"
                raise ApplicationError(text, non_retryable=True) from error

    return take


@asynccontextmanager
async def _beating() -> AsyncIterator[None]:
    """Send heartbeats until the end of the block."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT_SECONDS)

    beats: asyncio.Task[Any] = asyncio.create_task(beat())
    try:
        yield
    finally:
        beats.cancel()
