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
        return self not in _OPEN


_S = State
_STATES = tuple(State)
_OPEN = (State.WAITING, State.PREPARING, State.DISTURBED)


class _View:
    """The nodes, counted, and what follows from the counts alone."""

    def __init__(self, zones: list[str], rules: Rules, entries: Iterable[Entry]) -> None:
        self.states: dict[State, int] = {}
        self.disturbed: Counter[str] = Counter()
        unfinished = set()
        by_state: dict[State, list[str]] = {}
        for entry in entries:
            by_state.setdefault(entry.state, []).append(entry.name)
            if entry.disturbed:
                self.disturbed[entry.zone] += 1
            if entry.disturbed or not entry.state.ended:
                unfinished.add(entry.zone)
        self.states = {state: len(names) for state, names in by_state.items()}
        self.total = self.disturbed.total()
        # A zone that is disturbed, such as by a node to be tried again, comes before all others.
        self.unfinished = sorted(
            (zone for zone in zones if zone in unfinished),
            key=lambda zone: not self.disturbed[zone],
        )
        self.stopped = ""
        """Why the nodes that ended badly stop the roll; empty if they do not."""
        for state, limit in ((_S.FAILED, rules.max_failed), (_S.UNKNOWN, rules.max_unknown)):
            names = by_state.get(state, [])
            if len(names) > limit:
                some = ", ".join(names[:5])
                self.stopped = f"{len(names)} {state}, and {limit} are allowed: {some}."
                break


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
    boots: dict[str, str] = field(default_factory=dict)
    """The boot that each of them was armed in, as far as it is known."""


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
                self._move(entry, _S.PREPARING, disturbed=message["disturbed"])
        elif kind == "end":
            entry.asks = None
            self._move(entry, State(message["outcome"]), disturbed=message["disturbed"])
            entry.reason = message["reason"]
            operation = message.get("operation")
            if operation and operation not in entry.operations:
                entry.operations.append(operation)
            if operation and message.get("boot_before"):
                entry.boots[operation] = message["boot_before"]

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
                    self._move(entry, _S.ACCEPTED, disturbed=False)
            for entry in self.entries.values():
                if entry.state in (_S.FAILED, _S.UNKNOWN):
                    self._move(entry, _S.WAITING, disturbed=entry.disturbed)

    def _move(self, entry: Entry, state: State, *, disturbed: bool) -> None:
        """Change what is counted of a node; a roll is counted anew only if it differs."""
        if (entry.state, entry.disturbed) != (state, disturbed):
            entry.state, entry.disturbed, self._counted = state, disturbed, None

    def count(self, *states: State) -> int:
        """Count the nodes in any of these states."""
        counted = self._view.states
        return sum(counted.get(state, 0) for state in states)

    def disturbed(self, zone: str) -> int:
        """Count the nodes of a zone that are not fit to serve."""
        return self._view.disturbed[zone]

    @property
    def stopped(self) -> str:
        """Why no further node may be disturbed or armed; empty if one may be."""
        if self.aborted:
            return "The roll was aborted."
        return self._view.stopped

    @property
    def over(self) -> bool:
        """Whether all nodes have ended, or the roll was aborted and nothing runs any more."""
        if self.aborted:
            return not self.count(_S.PREPARING, _S.DISTURBED)
        running = self.count(_S.WAITING, _S.PREPARING, _S.DISTURBED)
        return not running and not self.stopped

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
                self._move(entry, _S.PREPARING, disturbed=entry.disturbed)
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
            self._move(entry, _S.DISTURBED, disturbed=True)
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
        view = self._view
        if view.disturbed[entry.zone] - own >= self.rules.per_zone:
            return f"{self.rules.per_zone} of zone {entry.zone} are disturbed."
        if self.rules.total is not None and view.total - own >= self.rules.total:
            return f"{self.rules.total} are disturbed."
        if entry.zone not in view.unfinished[: self.rules.zones_at_once]:
            return f"Zone {view.unfinished[0]} is not finished."
        return ""

    @property
    def _view(self) -> _View:
        """What is counted over all nodes; made again after a change."""
        if self._counted is None:
            self._counted = _View(self.zones, self.rules, self.entries.values())
        return self._counted

    def summary(self) -> Json:
        """Return the roll in a few members, for those who watch it."""
        counted = self._view.states
        return {
            "nodes": len(self.entries),
            "states": {state.value: counted[state] for state in _STATES if state in counted},
            "disturbed": {zone: self.disturbed(zone) for zone in self.zones},
            "paused": self.paused,
            "stopped": self.stopped,
            "waits": self.waits,
            "over": self.over,
            "quiet": self.quiet,
        }


_CANARY_DONE = (_S.DONE, _S.ACCEPTED)
