"""A durable engine in memory: records what calls returned, can be killed at each, and resumed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import from_json

from holdfast_rollout.interfaces import Json
from holdfast_rollout.node_roll import roll_node
from holdfast_rollout.roll import roll_fleet
from holdfast_rollout.steps import STEPS, Context
from tests.simulation.invariants import ViolationError


@dataclass
class Workflow:
    """What is kept of a workflow when its process is gone."""

    function: Callable[[Any, Json], Awaitable[Json]]
    arguments: Json
    records: list[tuple[str, str]] = field(default_factory=list)
    mailbox: deque[Json] = field(default_factory=deque)
    until: dict[int, float] = field(default_factory=dict)
    """When a wait ends, by its number."""
    result: Json | None = None


class Observer(Protocol):
    """Watches what is recorded."""

    def observe(self, workflow: str, call: str, value: Any) -> None:
        """See what a call of a workflow returned."""

    def restarted(self) -> None:
        """See that the controller was killed and started again."""


class Controller:
    """A process that runs the workflows of a roll, is killed at random, and started again.

    The observer is called with each call of a workflow once it is recorded.
    """

    def __init__(
        self,
        context: Context,
        dice: random.Random,
        kill_chance: float,
        observer: Observer,
    ) -> None:
        self.context = context
        self.workflows: dict[str, Workflow] = {}
        self.kills: Counter[tuple[str, str]] = Counter()
        """How often it was killed, by the call and the moment: before it, done and not recorded,
        recorded."""
        self.observer = observer
        self._dice = dice
        self._chance = kill_chance
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._arrived = asyncio.Condition()
        self._dead = asyncio.Event()
        self._violation: ViolationError | None = None

    async def run(self, roll: str, document: Json) -> Json:
        """Run a roll to its end, over all kills; return its summary."""
        self.workflows[roll] = Workflow(roll_fleet, document)
        while True:
            self._dead.clear()
            for name in list(self.workflows):
                self._launch(name)
            ended = asyncio.ensure_future(self._tasks[roll])
            dead = asyncio.ensure_future(self._dead.wait())
            await asyncio.wait((ended, dead), return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            tasks = list(self._tasks.values())
            if not self._dead.is_set():
                ended.result()
                await asyncio.gather(*tasks)
                result = self.workflows[roll].result
                assert result is not None
                return result
            if self._violation is not None:
                raise self._violation
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled() and task.exception() is not None:
                    raise task.exception() or AssertionError
            await asyncio.sleep(self._dice.choice((0.0, 1.0, 90.0, 4000.0)))
            self.observer.restarted()

    def _launch(self, name: str) -> None:
        if self.workflows[name].result is None:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._finish(name))

    async def _finish(self, name: str) -> None:
        workflow = self.workflows[name]
        try:
            workflow.result = await workflow.function(Process(self, name), workflow.arguments)
        except ViolationError as violation:
            self._violation = violation
            self._dead.set()

    def start(self, name: str, arguments: Json) -> None:
        """Start the workflow of a node unless it was started."""
        if name not in self.workflows:
            self.workflows[name] = Workflow(roll_node, _copied(arguments))
            self._launch(name)

    async def put(self, name: str, message: Json) -> None:
        """Put a message into a mailbox; a workflow that has ended has none."""
        if name in self.workflows:
            self.workflows[name].mailbox.append(_copied(message))
        async with self._arrived:
            self._arrived.notify_all()

    async def arrival(self, name: str, until: float) -> None:
        """Wait for a message, or for a moment."""
        mailbox = self.workflows[name].mailbox
        loop = asyncio.get_running_loop()
        while not mailbox and loop.time() < until:
            try:
                async with asyncio.timeout_at(until), self._arrived:
                    await self._arrived.wait()
            except TimeoutError:
                return

    def may_die(self, call: str, moment: str) -> None:
        """Be killed here, by chance. Raises `CancelledError`."""
        if self._dead.is_set() or self._dice.random() < self._chance:
            if not self._dead.is_set():
                self.kills[call.partition(" ")[0], moment] += 1
            self._dead.set()
            raise asyncio.CancelledError


class Process:
    """The engine as one workflow sees it, between a start of the controller and its kill."""

    def __init__(self, controller: Controller, name: str) -> None:
        self._controller = controller
        self._name = name
        self._workflow = controller.workflows[name]
        self._number = 0

    async def _recorded(self, call: str, effect: Callable[[int], Awaitable[Any]]) -> Any:
        number = self._number
        self._number += 1
        if number < len(self._workflow.records):
            name, value = self._workflow.records[number]
            assert name == call, f"{self._name} is not deterministic: {call}, and before {name}"
            return from_json(value)
        self._controller.may_die(call, "before")
        # Through JSON, as in a database.
        text = json.dumps(await effect(number))
        value = from_json(text)
        self._workflow.records.append((call, text))
        self._controller.observer.observe(self._name, call, value)
        self._controller.may_die(call, "recorded")
        return value

    async def step(self, name: str, arguments: Json) -> Json:
        async def effect(_number: int) -> Json:
            value = await STEPS[name](self._controller.context, _copied(arguments))
            # Messages are recorded with their effect; what a step did is not.
            self._controller.may_die(name, "done")
            return value

        value: Json = await self._recorded(name, effect)
        return value

    async def start_node(self, workflow: str, job: Json) -> None:
        async def effect(_number: int) -> None:
            self._controller.start(workflow, job)

        await self._recorded(f"start {workflow}", effect)

    async def send(self, workflow: str, message: Json) -> None:
        async def effect(_number: int) -> Json:
            await self._controller.put(workflow, message)
            return {"to": workflow, **message}

        await self._recorded("send", effect)

    async def receive(self, seconds: float) -> Json | None:
        async def effect(number: int) -> Json | None:
            await self._controller.arrival(self._name, self._until(number, seconds))
            mailbox = self._workflow.mailbox
            return mailbox.popleft() if mailbox else None

        value: Json | None = await self._recorded("receive", effect)
        return value

    async def sleep(self, seconds: float) -> None:
        async def effect(number: int) -> None:
            clock = self._controller.context.clock
            await clock.sleep(max(0.0, self._until(number, seconds) - clock.now()))

        await self._recorded("sleep", effect)

    async def now(self) -> float:
        async def effect(_number: int) -> float:
            return self._controller.context.clock.now()

        value: float = await self._recorded("now", effect)
        return value

    async def publish(self, key: str, members: Json) -> None:
        json.dumps(members)
        self._controller.context.board.roll({key: members})

    def _until(self, number: int, seconds: float) -> float:
        now = self._controller.context.clock.now()
        return self._workflow.until.setdefault(number, now + seconds)


def _copied(value: Any) -> Any:
    """Pass a value through JSON, as a database does. Raises `TypeError` for what is not JSON."""
    return from_json(json.dumps(value))
