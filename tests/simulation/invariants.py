"""What must be true of every roll at every moment, checked as the simulated world changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from holdfast_rollout.inventory import Inventory


class ViolationError(BaseException):
    """An invariant does not hold. The message begins with its name.

    Not an `Exception`, which the code under test may take for a failure of its own.
    """


class Monitor:
    """Knows which nodes are disturbed, what was allowed, and what was done, from the world alone.

    It sees the effects on nodes and the messages of the workflows, not how these decide.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._rules = inventory.rules
        self._poll = inventory.times.poll
        self._zone = {node.name: node.zone for node in inventory.nodes}
        self._roll = inventory.roll
        self.disturbed: set[str] = set()
        self.most: Counter[str] = Counter()
        """The most nodes that were disturbed at a time, by zone."""
        self._bad: dict[str, str] = {}
        self._stopped = False
        self._allowed: dict[str, bool] = {}
        """Whether a node may be armed: it was allowed to since it was drained."""
        self._asked: dict[tuple[str, int], str] = {}
        self._attempts: Counter[str] = Counter()
        self._staged: Counter[str] = Counter()
        self._armed: Counter[str] = Counter()
        self._rebooted: Counter[str] = Counter()
        self._polled: dict[str, float] = {}

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise ViolationError(what)

    # Effects on nodes.

    def drained(self, name: str) -> None:
        self.disturbed.add(name)
        zones = Counter(self._zone[each] for each in self.disturbed)
        self._require(
            len(zones) <= self._rules.zones_at_once,
            f"zones: disturbed are {sorted(self.disturbed)}",
        )
        for zone, count in zones.items():
            self.most[zone] = max(self.most[zone], count)
            self._require(count <= self._rules.per_zone, f"budget: {count} of {zone}")
        total = self._rules.total
        self._require(total is None or len(self.disturbed) <= total, f"budget: {zones} in all")
        self._require(not self._stopped or not self._is_new(name), f"stop: {name} was drained")

    def _is_new(self, name: str) -> bool:
        """Whether nothing allowed to disturb it before the roll stopped."""
        return name not in self._allowed

    def released(self, name: str) -> None:
        self.disturbed.discard(name)
        self._allowed.pop(name, None)

    def staged(self, name: str, operation: str) -> None:
        self._staged[name] += 1
        # A rollback is a second operation of an attempt.
        limit = self._attempts[name] * (2 if self._rules.on_failure == "rollback" else 1)
        self._require(
            self._staged[name] <= limit, f"once: {operation} is one more than the attempts"
        )

    def armed(self, name: str, operation: str) -> None:
        self._armed[operation] += 1
        self._require(self._armed[operation] <= 1, f"once: {operation} was armed twice")
        self._require(name in self.disturbed, f"order: {name} was armed and not drained")
        self._require(self._allowed.get(name, False), f"stop: {name} was armed after the failure")

    def disarmed(self, name: str, operation: str) -> None:
        del name
        self._armed[operation] -= 1

    def rebooted(self, name: str, operation: str) -> None:
        self._rebooted[operation] += 1
        self._require(self._rebooted[operation] <= 1, f"once: {operation} was rebooted twice")
        self._require(name in self.disturbed, f"order: {name} went down and was not drained")

    def polled(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        since = now - self._polled.get(name, 0.0)
        self._polled[name] = now
        self._require(since >= self._poll - 0.001, f"pace: {name} was asked {since:.1f} s later")

    def acted(self, name: str) -> None:
        """See a request that changes a node: what comes next is another wait."""
        self._polled.pop(name, None)

    def restarted(self) -> None:
        """Forget when nodes were asked: the controller that knew it was killed."""
        self._polled.clear()

    # Messages of the workflows, once they are recorded.

    def observe(self, workflow: str, call: str, value: Any) -> None:
        if workflow != self._roll:
            return
        if call.startswith("start "):
            name = call.split(":")[1]
            self._attempts[name] += 1
            self.acted(name)
        if call == "receive" and value is not None:
            self._received(value)
        if call == "send":
            self._answered(value["to"].split(":")[1], value)

    def _received(self, message: Any) -> None:
        if message["type"] == "ask":
            self._asked[message["node"], message["number"]] = message["purpose"]
        elif message["type"] == "end":
            if message["outcome"] in ("failed", "unknown"):
                self._bad[message["node"]] = message["outcome"]
            counts = Counter(self._bad.values())
            limits = {"failed": self._rules.max_failed, "unknown": self._rules.max_unknown}
            self._stopped = any(counts[each] > limit for each, limit in limits.items())
        elif message["type"] == "command" and message["command"] == "resume":
            for name in message.get("accept", ()):
                self.disturbed.discard(name)
            self._bad.clear()
            self._stopped = False

    def _answered(self, name: str, message: Any) -> None:
        purpose = self._asked[name, message["number"]]
        if message["answer"] != "go":
            self._allowed.pop(name, None)
        elif purpose == "disturb":
            self._require(not self._stopped, f"stop: {name} may be disturbed after the failure")
            self._allowed[name] = False
        elif purpose == "arm":
            self._require(not self._stopped, f"stop: {name} may be armed after the failure")
            self._allowed[name] = True
