"""What a roll knows of its nodes, and the rules about what may happen next. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from holdfast_rollout.interfaces import Json
from holdfast_rollout.inventory import Inventory, Rules
from holdfast_rollout.node_roll import ABORT, BACK, GO


class State(StrEnum):
    """Where a node is, as the roll counts it."""

    WAITING = "waiting"
    PREPARING = "preparing"
    """Its workflow runs, and has not disturbed it."""
    DISTURBED = "disturbed"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ABORTED = "aborted"
    ACCEPTED = "accepted"
    """An operator took the node as it is."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is done with the node by itself."""
        return self not in (State.WAITING, State.PREPARING, State.DISTURBED)


_S = State


class _View:
    """The nodes, counted."""

    def __init__(self, zones: list[str], entries: Iterable[Entry]) -> None:
        self.states: Counter[State] = Counter()
        self.disturbed: Counter[str] = Counter()
        unfinished = set()
        for entry in entries:
            self.states[entry.state] += 1
            if entry.disturbed:
                self.disturbed[entry.zone] += 1
            if entry.disturbed or not entry.state.ended:
                unfinished.add(entry.zone)
        self.unfinished = [zone for zone in zones if zone in unfinished]


@dataclass
class Entry:
    """One node of a roll."""

    name: str
    zone: str
    state: State = State.WAITING
    attempt: int = 0
    disturbed: bool = False
    """Not fit to serve, or about to be so; also after it ended, until an operator accepts it."""
    asks: Json | None = None
    reason: str = ""
    operations: list[str] = field(default_factory=list)


class Ledger:
    """The nodes of a roll in their order, and whether the roll is paused or aborted."""

    def __init__(self, inventory: Inventory) -> None:
        self.rules: Rules = inventory.rules
        self.entries = {
            node.name: Entry(node.name, node.zone)
            for nodes in inventory.zones.values()
            for node in nodes
        }
        self.zones = list(inventory.zones)
        self.canary = [entry.name for entry in self.entries.values()][: self.rules.canary]
        if inventory.zones:
            first = {node.name for node in inventory.zones[self.zones[0]]}
            self.canary = [name for name in self.canary if name in first]
        self.paused = False
        self.aborted = False
        self._counted: _View | None = None
        self.waits = ""
        """Why nothing more is disturbed at the moment; empty if something may be."""

    # What is known.

    def apply(self, message: Json) -> None:
        """Take over what a node's workflow or an operator says; what is out of date is ignored."""
        self._counted = None
        kind = message["type"]
        if kind == "command":
            self._command(message)
            return
        entry = self.entries[message["node"]]
        if message["attempt"] != entry.attempt or entry.state.ended:
            return
        if kind == "ask":
            entry.asks = message
            if message["purpose"] == "disturb":
                # It is ready, or was called back and serves again.
                entry.state, entry.disturbed = _S.PREPARING, message["disturbed"]
        elif kind == "end":
            entry.asks = None
            entry.state = State(message["outcome"])
            entry.disturbed = message["disturbed"]
            entry.reason = message["reason"]
            if message.get("operation") and message["operation"] not in entry.operations:
                entry.operations.append(message["operation"])

    def _command(self, message: Json) -> None:
        command = message["command"]
        if command == "pause":
            self.paused = True
        elif command == "abort":
            self.aborted = True
        elif command == "resume" and not self.aborted:
            self.paused = False
            for name in message.get("accept", ()):
                entry = self.entries.get(name)
                if entry is not None and entry.state in (_S.FAILED, _S.UNKNOWN):
                    entry.state, entry.disturbed = _S.ACCEPTED, False
            for entry in self.entries.values():
                if entry.state in (_S.FAILED, _S.UNKNOWN):
                    entry.state = _S.WAITING

    def count(self, *states: State) -> int:
        """Count the nodes in any of these states."""
        return sum(self._view.states[state] for state in states)

    def disturbed(self, zone: str) -> int:
        """Count the nodes of a zone that are not fit to serve."""
        return self._view.disturbed[zone]

    @property
    def stopped(self) -> str:
        """Why no further node may be disturbed or armed; empty if one may be."""
        if self.aborted:
            return "The roll was aborted."
        for state, limit in (
            (_S.FAILED, self.rules.max_failed),
            (_S.UNKNOWN, self.rules.max_unknown),
        ):
            if self._view.states[state] > limit:
                names = [entry.name for entry in self.entries.values() if entry.state is state]
                return f"{len(names)} {state}, and {limit} are allowed: {', '.join(names[:5])}."
        return ""

    @property
    def over(self) -> bool:
        """Whether all nodes have ended, or the roll was aborted and nothing runs any more."""
        if self.aborted:
            return not self.count(_S.PREPARING, _S.DISTURBED)
        running = self.count(_S.WAITING, _S.PREPARING, _S.DISTURBED)
        return not self.stopped and not running

    @property
    def quiet(self) -> bool:
        """Whether it is not over, and nothing more happens until an operator resumes it."""
        if self.paused or self.over or self.count(_S.DISTURBED):
            return False
        preparing = [entry for entry in self.entries.values() if entry.state is _S.PREPARING]
        return all(entry.asks is not None and self.hindrance(entry) for entry in preparing)

    # What may happen.

    def to_start(self) -> Iterator[Entry]:
        """Yield the nodes that are to be checked and staged now; marks them."""
        if self.stopped or self.paused:
            return
        for entry in self.entries.values():
            # What is tried again is not kept waiting by nodes that wait for it.
            free = entry.attempt > 0 or self.count(_S.PREPARING) < self.rules.ahead
            if entry.state is _S.WAITING and free:
                entry.state, self._counted = _S.PREPARING, None
                entry.attempt += 1
                entry.asks = None
                yield entry

    def asking(self) -> list[Entry]:
        """Return the nodes that wait for an answer, in the order of the roll."""
        return [entry for entry in self.entries.values() if entry.asks is not None]

    def answer(self, entry: Entry, held: str) -> str | None:
        """Return what to answer a node that asks; None for nothing yet.

        `held` is why windows or alerts hold new disturbances, if they do.
        """
        purpose = (entry.asks or {})["purpose"]
        if purpose != "disturb":
            return BACK if self.stopped else GO
        if self.aborted:
            return ABORT
        self.waits = self.hindrance(entry) or held
        return None if self.waits else GO

    def grant(self, entry: Entry, answer: str) -> None:
        """Note that an answer is being sent."""
        if answer == GO:
            entry.state, entry.disturbed, self._counted = _S.DISTURBED, True, None
        entry.asks = None

    def hindrance(self, entry: Entry) -> str:
        """Return why a node may not be disturbed now, by the nodes alone; empty if it may."""
        if self.stopped:
            return self.stopped
        if self.paused:
            return "The roll is paused."
        waiting = [name for name in self.canary if self.entries[name].state not in _CANARY_DONE]
        if waiting and entry.name not in self.canary:
            return f"The canary is not done: {', '.join(waiting)}."
        return self._budget(entry)

    def _budget(self, entry: Entry) -> str:
        own = int(entry.disturbed)
        disturbed = self._view.disturbed
        if disturbed[entry.zone] - own >= self.rules.per_zone:
            return f"{self.rules.per_zone} of zone {entry.zone} are disturbed."
        if self.rules.total is not None and disturbed.total() - own >= self.rules.total:
            return f"{self.rules.total} are disturbed."
        # A zone that is disturbed, such as by a node to be tried again, comes before all others.
        unfinished = sorted(self._view.unfinished, key=lambda zone: not disturbed[zone])
        if entry.zone not in unfinished[: self.rules.zones_at_once]:
            return f"Zone {unfinished[0]} is not finished."
        return ""

    @property
    def _view(self) -> _View:
        """What is counted over all nodes; made anew after each change."""
        if self._counted is None:
            self._counted = _View(self.zones, self.entries.values())
        return self._counted

    def summary(self) -> Json:
        """Return the roll in a few members, for those who watch it."""
        return {
            "nodes": len(self.entries),
            "states": {state.value: count for state in State if (count := self.count(state))},
            "disturbed": {zone: self.disturbed(zone) for zone in self.zones},
            "paused": self.paused,
            "stopped": self.stopped,
            "waits": self.waits,
            "over": self.over,
            "quiet": self.quiet,
        }


_CANARY_DONE = (_S.DONE, _S.ACCEPTED)
