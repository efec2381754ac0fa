"""Random schedules, each from a seed: a fleet, its rules, what goes wrong, and an operator."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from holdfast_rollout.interfaces import Json
from holdfast_rollout.inventory import Inventory, parse_inventory
from holdfast_rollout.steps import Context
from tests.simulation.durable import Controller
from tests.simulation.invariants import Monitor, ViolationError
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.world import (
    BAD_ENDS,
    WANTED,
    Api,
    Board,
    Clock,
    End,
    LockServer,
    Odds,
    SimNode,
    Surroundings,
    Times,
)

BEGIN = 1_800_000_000.0
LONGEST = 20 * 86_400.0
"""Virtual seconds after which a roll that is not over counts as stuck."""


@dataclass(frozen=True)
class Schedule:
    """What one seed stands for."""

    seed: int
    inventory: Inventory
    odds: Odds
    kill_chance: float
    lock_slots: int
    lock_away: float
    """Of the time that the lock server is away."""
    interference: float
    """How likely an operator pauses, resumes or aborts, each hour."""
    times: Times | None = None
    """Of every node; else they are random."""


@dataclass(frozen=True)
class Result:
    """How a schedule ended."""

    seed: int
    summary: Json
    seconds: float
    """Virtual ones."""
    kills: dict[tuple[str, str], int]
    """Of the controller, by the call and the moment."""
    most: dict[str, int]


def schedule(seed: int) -> Schedule:
    """Make the schedule of a seed."""
    dice = random.Random(f"schedule {seed}")
    zones = dice.randint(1, 4)
    nodes = [
        {"name": f"n{number}", "zone": f"z{number % zones}", "socket": "/none"}
        for number in range(dice.randint(2, 12))
    ]
    back = dice.random() < 0.3
    rules: Json = {
        "per_zone": dice.randint(1, 4),
        "total": dice.choice([None, 1, 3]),
        "zones_at_once": dice.choice([1, 1, 1, 2]),
        "canary": dice.randint(0, 2),
        "max_failed": dice.choice([0, 0, 1, 2]),
        "max_unknown": dice.choice([0, 0, 1]),
        "ahead": dice.randint(1, 8),
        "windows": dice.choice([[], [], ["22:00-06:00 Europe/Berlin"]]),
        "on_failure": "rollback" if back else "leave",
    }
    gate = {"command": ["true"], "stable": 2, "every_seconds": 10, "within_seconds": 120}
    document = {
        "roll": "sim",
        "image": {"descriptor": "https://x/", "descriptor_sha256": WANTED, "save_previous": back},
        "nodes": nodes,
        "rules": rules,
        "gates": [gate] if dice.random() < 0.7 else [],
        "times": {"boots": 1800, "reboot": 1800},
    }
    troubled = dice.random() < 0.8
    return Schedule(
        seed,
        parse_inventory(document, f"schedule {seed}"),
        Odds(
            lost=dice.choice([0.0, 0.02, 0.1]),
            bad_end=dice.choice([0.05, 0.2, 0.5]) if troubled else 0.0,
            staging_fails=dice.choice([0.0, 0.05]) if troubled else 0.0,
            hook_fails=dice.choice([0.0, 0.05]) if troubled else 0.0,
            gate_fails=dice.choice([0.0, 0.05]) if troubled else 0.0,
            alert=dice.choice([0.0, 0.3]),
        ),
        kill_chance=dice.choice([0.0, 0.003, 0.02]),
        lock_slots=dice.choice([1, 2, 8]),
        lock_away=dice.choice([0.0, 0.0, 0.3]),
        interference=dice.choice([0.0, 0.0, 0.2]),
    )


def clean_fleet(nodes: int, zones: int, per_zone: int) -> Schedule:
    """Make a schedule in which nothing goes wrong, to measure how long a roll takes."""
    document = {
        "roll": "sim",
        "image": {"descriptor": "https://x/", "descriptor_sha256": WANTED},
        "nodes": [
            {"name": f"n{number}", "zone": f"z{number % zones}", "socket": "/none"}
            for number in range(nodes)
        ],
        "rules": {"per_zone": per_zone, "ahead": 2 * per_zone},
        "gates": [{"command": ["true"], "stable": 3, "every_seconds": 10}],
    }
    inventory = parse_inventory(document, "fleet")
    return Schedule(0, inventory, Odds(), 0.0, nodes, 0.0, 0.0, _TYPICAL)


_TYPICAL = Times(stage=300.0, down=60.0, imaging=180.0, checking=20.0)
"""Of a node with an image of some GiB: two boots of a minute each, three minutes of writing."""


def run(chosen: Schedule) -> Result:
    """Run a schedule. Raises `ViolationError`, with its seed, if an invariant does not hold."""
    loop = VirtualLoop(BEGIN)
    try:
        return loop.run_until_complete(_Run(chosen).run())
    except (AssertionError, RuntimeError, ViolationError) as error:
        raise ViolationError(f"{error} (seed {chosen.seed})") from error
    finally:
        _close(loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(_gone(left))
    loop.close()


async def _gone(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class _Run:
    """One run of a schedule."""

    def __init__(self, chosen: Schedule) -> None:
        self._schedule = chosen
        self._dice = random.Random(f"run {chosen.seed}")
        self._monitor = Monitor(chosen.inventory)
        lock = LockServer(chosen.lock_slots)
        self._lock = lock
        self._nodes = {
            node.name: SimNode(
                node.name,
                node.zone,
                times=self._times(),
                odds=chosen.odds,
                ends=self._ends(),
                lock=lock,
                dice=self._dice,
                monitor=self._monitor,
            )
            for node in chosen.inventory.nodes
        }
        self._surroundings = Surroundings(self._nodes, chosen.odds, self._dice, self._monitor)
        self._board = Board(self._monitor)
        context = Context(
            inventory=chosen.inventory,
            nodes=lambda name: Api(self._nodes[name]),
            clock=Clock(),
            surroundings=self._surroundings,
            board=self._board,
        )
        self._controller = Controller(context, self._dice, chosen.kill_chance, self._monitor)
        self._meddled = False
        self._repairs = 0

    def _times(self) -> Times:
        if self._schedule.times is not None:
            return self._schedule.times
        dice = self._dice
        return Times(
            stage=dice.uniform(1, 600),
            down=dice.uniform(1, 90),
            imaging=dice.uniform(1, 600),
            checking=dice.uniform(0, 60),
        )

    def _ends(self) -> list[End]:
        bad = self._dice.random() < self._schedule.odds.bad_end
        return [self._dice.choice(BAD_ENDS)] if bad else []

    async def run(self) -> Result:
        chosen = self._schedule
        document = chosen.inventory.model_dump(mode="json")
        others = [asyncio.ensure_future(each) for each in (self._operate(), self._move_lock())]
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(LONGEST):
                summary = await self._controller.run(chosen.inventory.roll, document)
        except TimeoutError:
            raise ViolationError(f"progress: stuck with {self._board.summary}") from None
        finally:
            for other in others:
                other.cancel()
        for other in others:
            if other.done() and not other.cancelled() and (error := other.exception()):
                raise error
        self._judge(summary)
        seconds = asyncio.get_running_loop().time() - began
        most = dict(self._monitor.most)
        return Result(chosen.seed, summary, seconds, dict(self._controller.kills), most)

    def _judge(self, summary: Json) -> None:
        """Check what must hold at the end."""
        assert summary["over"], f"progress: it ended, and is not over: {summary}"
        troubled = self._lock_matters() or any(node.faulty for node in self._nodes.values())
        if not troubled and not self._meddled:
            everything = {"done": len(self._nodes)}
            assert summary["states"] == everything, f"cause: nothing failed, and {summary}"
        good = sum(
            node.image == WANTED and node.state == "confirmed" for node in self._nodes.values()
        )
        done = summary["states"].get("done", 0)
        assert good >= done, f"truth: {done} are done, and {good} run the image"

    def _lock_matters(self) -> bool:
        slots = min(self._schedule.inventory.rules.per_zone, len(self._nodes))
        return self._schedule.lock_away > 0 or self._schedule.lock_slots < slots * 2

    async def _send(self, command: str, **members: Any) -> None:
        message = {"type": "command", "command": command, **members}
        await self._controller.put(self._schedule.inventory.roll, message)

    async def _operate(self) -> None:
        """Fix what stopped the roll and resume it; meddle now and then."""
        dice = self._dice
        while True:
            await asyncio.sleep(dice.uniform(600, 5400))
            if self._board.summary.get("quiet") and not self._board.summary.get("over"):
                await self._resume()
            elif dice.random() < self._schedule.interference:
                self._meddled = True
                await self._send(dice.choice(["pause", "pause", "resume", "abort"]))
                await asyncio.sleep(dice.uniform(10, 2000))
                await self._send("resume")

    async def _resume(self) -> None:
        self._repairs += 1
        self._surroundings.pass_gates()
        for node in self._nodes.values():
            node.repair()
        accept = [name for name in self._nodes if self._dice.random() < 0.1]
        await self._send("resume", accept=accept)

    async def _move_lock(self) -> None:
        away = self._schedule.lock_away
        while away:
            await asyncio.sleep(self._dice.expovariate(1 / 3600))
            self._lock.away = self._dice.random() < away
