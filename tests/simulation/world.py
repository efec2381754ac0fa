"""Simulated nodes that die, lie and come back twice; hooks, gates, alerts and a lock server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast_rollout.interfaces import (
    Away,
    Json,
    NodeStatus,
    OperationStatus,
    Reading,
    Refused,
)
from tests.simulation.invariants import Monitor

WANTED = "a" * 64
OTHER = "b" * 64
End = Literal["good", "old", "unconfirmed", "unknown", "dead", "lie", "unrebooted", "twice"]
BAD_ENDS: tuple[End, ...] = ("old", "unconfirmed", "unknown", "dead", "lie", "unrebooted", "twice")
_UP = ("idle", "staging", "staged", "armed", "confirmed", "failed", "unconfirmed", "unknown")


@dataclass
class Times:
    """Seconds that the phases of a node take."""

    stage: float = 60.0
    down: float = 40.0
    imaging: float = 180.0
    checking: float = 20.0


@dataclass
class Odds:
    """How likely what goes wrong is."""

    lost: float = 0.0
    """A request or its answer, each."""
    bad_end: float = 0.0
    staging_fails: float = 0.0
    hook_fails: float = 0.0
    gate_fails: float = 0.0
    alert: float = 0.0


class Clock:
    """The virtual time."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class LockServer:
    """A FleetLock manager with slots, which may be away."""

    slots: int
    holders: set[str] = field(default_factory=set)
    away: bool = False

    def acquire(self, name: str) -> str | None:
        """Take a slot; return why not."""
        if self.away:
            return "The lock server does not answer."
        if name not in self.holders and len(self.holders) >= self.slots:
            return "All slots are held."
        self.holders.add(name)
        return None


class SimNode:
    """A node as its API shows it: idempotency keys, preconditions, boots."""

    def __init__(
        self,
        name: str,
        zone: str,
        *,
        times: Times,
        odds: Odds,
        ends: list[End],
        lock: LockServer,
        dice: random.Random,
        monitor: Monitor,
    ) -> None:
        self.name = name
        self.zone = zone
        self.times = times
        self.odds = odds
        self.ends = ends
        """How its next re-imagings end; good when there is none left."""
        self.lock = lock
        self.state = "idle"
        self.operation: str | None = None
        self.image: str | None = None
        self.boots = 1
        self.up: Literal["up", "down", "imaging"] = "up"
        self.faulty = False
        """Whether anything was thrown at it that a roll may fail by."""
        self.lied = False
        """Whether it shows a state that it is not in."""
        self._dice = dice
        self._monitor = monitor
        self._keys: dict[str, str] = {}
        self._done: set[tuple[str, str]] = set()
        self._phase_of: dict[str, tuple[str, str | None]] = {}
        self._count = 0
        self._changed = asyncio.Event()

    # Requests.

    async def _answering(self) -> None:
        """Take time, and perhaps lose the request. Raises `Away`."""
        await asyncio.sleep(self._dice.uniform(0.01, 2.0))
        if self.up != "up":
            raise Away("refused", imaging=self.up == "imaging")
        if self._dice.random() < self.odds.lost:
            raise Away("the request was lost")

    def _lose_answer(self) -> None:
        if self._dice.random() < self.odds.lost or self.up != "up":
            raise Away("the answer was lost")

    async def status(self) -> NodeStatus:
        await self._answering()
        self._lose_answer()
        return NodeStatus(
            self.state, self.operation, self.image, "a check failed", self.state == "booted"
        )

    async def boot_id(self) -> str:
        await self._answering()
        self._lose_answer()
        return f"{self.name}-{self.boots}"

    async def features(self) -> Sequence[str]:
        await self._answering()
        self._lose_answer()
        return ("attempt-precondition", "idempotency-key")

    async def stage(self, image: Json, key: str) -> OperationStatus:
        await self._answering()
        if key not in self._keys:
            if self.state in ("staging", "staged", "armed", "rebooting", "booted"):
                raise Refused("an operation is under way", slug="conflict")
            self._begin(key, str(image["descriptor_sha256"]))
        self._lose_answer()
        return self._seen(self._keys[key])

    def _begin(self, key: str, image: str) -> None:
        self._count += 1
        operation = f"{self.name}-{self._count}"
        self._keys[key] = operation
        self.operation, self.state, self.image = operation, "staging", image
        self._phase_of[operation] = ("running", None)
        self._monitor.staged(self.name, operation)
        asyncio.get_running_loop().call_later(self.times.stage, self._staged, operation)

    def _staged(self, operation: str) -> None:
        if self.operation == operation and self.state == "staging":
            if self._dice.random() < self.odds.staging_fails:
                self.faulty = True
                self._end("failed", "io-error", "failed")
            else:
                self.state = "staged"

    async def operation_(self, operation: str, wait: float) -> OperationStatus:
        self._monitor.polled(self.name)
        await self._answering()
        if wait and not self._seen(operation).final:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            if self.up != "up":
                raise Away("the connection broke")
        self._lose_answer()
        return self._seen(operation)

    def _seen(self, operation: str) -> OperationStatus:
        if operation not in self._phase_of:
            raise Refused("there is no such operation", slug="not-found")
        state, problem = self._phase_of[operation]
        phase = self.state if operation == self.operation else ""
        return OperationStatus(operation, state, phase, problem, "as simulated")

    async def take(self, step: str, operation: str, key: str) -> str:
        self._monitor.acted(self.name)
        await self._answering()
        if (key, step) not in self._done:
            if operation != self.operation:
                raise Refused(f"{self.operation} is there", slug="conflict")
            getattr(self, f"_{step}")()
            self._done.add((key, step))
        state = self.state
        self._lose_answer()
        return state

    def _arm(self) -> None:
        if self.state not in ("staged", "armed"):
            raise Refused(f"it is {self.state}", slug="conflict")
        if self.state == "staged":
            self._monitor.armed(self.name, self.operation or "")
        self.state = "armed"

    def _disarm(self) -> None:
        if self.state not in ("staged", "armed"):
            raise Refused(f"it is {self.state}", slug="conflict")
        if self.state == "armed":
            self._monitor.disarmed(self.name, self.operation or "")
        self.state = "staged"
        self.lock.holders.discard(self.name)

    def _reboot(self) -> None:
        if self.state != "armed":
            raise Refused(f"it is {self.state}", slug="conflict")
        why = self.lock.acquire(self.name)
        if why is not None:
            raise Refused(why, slug="held-back", gate="fleet-lock")
        self.state = "rebooting"
        self._monitor.rebooted(self.name, self.operation or "")
        asyncio.get_running_loop().create_task(self._boot_twice(self.operation or ""))

    def _confirm(self) -> None:
        if self.state not in ("booted", "unconfirmed", "confirmed"):
            raise Refused(f"it is {self.state}", slug="conflict")
        self._end("succeeded", None, "confirmed")
        self.lock.holders.discard(self.name)

    async def rollback(self, operation: str, key: str) -> OperationStatus:
        self._monitor.acted(self.name)
        await self._answering()
        if key not in self._keys:
            if operation != self.operation or self.state not in ("unconfirmed", "failed"):
                raise Refused(f"it is {self.state}", slug="conflict")
            self._begin(key, OTHER)
        self._lose_answer()
        return self._seen(self._keys[key])

    async def cancel(self, operation: str, key: str) -> None:
        del key
        await self._answering()
        if self.operation == operation and self._phase_of[operation][0] == "running":
            if self.state == "booted":
                self._end("cancelled", "cancelled", "unconfirmed")
            elif self.state != "rebooting":
                self._end("cancelled", "cancelled", "idle")
        self._lose_answer()

    def _end(self, state: str, problem: str | None, node: str) -> None:
        self.state = node
        if self.operation is not None and self._phase_of[self.operation][0] == "running":
            self._phase_of[self.operation] = (state, problem)
            self._changed.set()

    # Boots.

    async def _boot_twice(self, operation: str) -> None:
        end: End = self.ends.pop(0) if self.ends else "good"
        self.faulty = self.faulty or end != "good"
        await asyncio.sleep(self._dice.uniform(0.1, 5.0))
        if end == "unrebooted":
            self.state, self.lied = "booted", True
            return
        self.up = "down"
        self._changed.set()
        await asyncio.sleep(self.times.down)
        if end == "dead":
            return
        self.up = "imaging"
        await asyncio.sleep(self.times.imaging)
        self.up = "down"
        await asyncio.sleep(self.times.down)
        self.boots += 1
        self.up = "up"
        self.state = "rebooting"
        await asyncio.sleep(self.times.checking)
        if self.operation == operation:
            await self._arrive(end)

    async def _arrive(self, end: End) -> None:
        if end == "old":
            self._end("failed", "not-reimaged", "failed")
            self.lock.holders.discard(self.name)
        elif end in ("unconfirmed", "unknown"):
            self._end("failed", "not-confirmed", end)
        else:
            self.state = "booted"
            if end == "lie":
                self.image = OTHER
            if end == "twice":
                await asyncio.sleep(self._dice.uniform(1.0, 60.0))
                self.up = "down"
                await asyncio.sleep(self.times.down)
                self.boots += 1
                self.up = "up"

    def repair(self) -> None:
        """Have an operator fix it: it runs, and is confirmed or has nothing under way."""
        if self.up != "up":
            self.up, self.boots = "up", self.boots + 1
        self.lock.holders.discard(self.name)
        if self.lied or self.state in ("unconfirmed", "unknown", "booted", "rebooting"):
            self._end("failed", "not-reimaged", "failed")
        self.lied = False


class Api:
    """Calls of a node in the names of the interface."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, "operation_" if name == "operation" else name)


class Surroundings:
    """Hooks, gates and alerts that fail at random."""

    def __init__(
        self, nodes: dict[str, SimNode], odds: Odds, dice: random.Random, monitor: Monitor
    ) -> None:
        self._nodes = nodes
        self._odds = odds
        self._dice = dice
        self._monitor = monitor
        self._bad_gates: set[str] = set()

    async def hook(self, name: str, variables: dict[str, str]) -> Reading:
        node = variables["HOLDFAST_NODE"]
        if name == "drain":
            self._monitor.drained(node)
        await asyncio.sleep(self._dice.uniform(0.0, 30.0))
        if self._dice.random() < self._odds.hook_fails:
            self._nodes[node].faulty = True
            return Reading(good=False, detail="the command ended with 1")
        if name == "release":
            self._monitor.released(node)
        return Reading(good=True)

    async def gate(self, number: int, variables: dict[str, str]) -> Reading:
        del number
        await asyncio.sleep(0.1)
        node = variables["HOLDFAST_NODE"]
        if node not in self._bad_gates and self._dice.random() < self._odds.gate_fails:
            self._bad_gates.add(node)
            self._nodes[node].faulty = True
        return Reading(good=node not in self._bad_gates, detail="the peers do not see it")

    def pass_gates(self) -> None:
        """Have an operator fix what the gates read."""
        self._bad_gates.clear()

    async def alerts(self) -> Reading:
        await asyncio.sleep(0.1)
        firing = self._dice.random() < self._odds.alert
        return Reading(good=not firing, detail="LatencyHigh fires")

    async def notify(self, event: Json) -> None:
        del event


class Board:
    """Keeps what was shown of the roll."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.summary: Json = {}

    def node(self, name: str, members: Json) -> None:
        pass

    def roll(self, members: Json) -> None:
        self.summary = members.get("roll", self.summary)

    def requested(self, name: str) -> None:
        pass
