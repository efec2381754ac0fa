"""The workflow of a whole roll: which node is next, and whether anything stops it."""

from __future__ import annotations

from holdfast_rollout.interfaces import Engine, Json
from holdfast_rollout.inventory import Inventory
from holdfast_rollout.ledger import Entry, Ledger, State
from holdfast_rollout.node_roll import DAY


def node_workflow(roll: str, node: str, attempt: int) -> str:
    """Return the id of the workflow of a node's attempt."""
    return f"{roll}:{node}:{attempt}"


async def roll_fleet(engine: Engine, document: Json) -> Json:
    """Roll all nodes of an inventory; return the summary of how it ended.

    Nodes' workflows report and ask by messages, and operators command by messages. All that is
    known is taken in before anything is allowed, one decision after another.
    """
    return await _Roll(engine, document).run()


class _Roll:
    def __init__(self, engine: Engine, document: Json) -> None:
        self._engine = engine
        self._document = document
        self._inventory = Inventory.model_validate(document)
        self._ledger = Ledger(self._inventory)
        self._seen: Json = {}
        self._again = DAY
        """In how many seconds windows and alerts are to be read again, while they hold the roll."""

    async def run(self) -> Json:
        await self._notify("started", "")
        while True:
            for entry in self._ledger.to_start():
                await self._start(entry)
            await self._answer()
            await self._show()
            if self._ledger.over:
                break
            await self._listen()
        await self._notify("ended", self._ledger.stopped)
        return self._ledger.summary()

    async def _listen(self) -> None:
        await self._take(self._again if self._candidates() else DAY)

    async def _take(self, seconds: float) -> None:
        """Take in all messages that are there, after waiting for the first one."""
        message = await self._engine.receive(seconds)
        while message is not None:
            before = self._ledger.stopped
            self._ledger.apply(message)
            if self._ledger.stopped and self._ledger.stopped != before:
                await self._notify("stopped", self._ledger.stopped)
            message = await self._engine.receive(0.0)

    def _candidates(self) -> list[Entry]:
        """Return the nodes that only windows or alerts can hold."""
        return [
            entry
            for entry in self._ledger.asking()
            if (entry.asks or {})["purpose"] == "disturb" and not self._ledger.hindrance(entry)
        ]

    async def _start(self, entry: Entry) -> None:
        await self._engine.start_node(
            node_workflow(self._inventory.roll, entry.name, entry.attempt),
            {
                "roll": self._inventory.roll,
                "node": entry.name,
                "zone": entry.zone,
                "attempt": entry.attempt,
                "operations": list(entry.operations),
                "boots": dict(entry.boots),
                "disturbed": entry.disturbed,
                "inventory": self._document,
            },
        )

    async def _answer(self) -> None:
        """Answer the nodes that ask, as far as there is an answer."""
        held = ""
        self._ledger.waits = ""
        if self._candidates():
            facts = await self._engine.step("facts", {})
            held, self._again = facts["held"], facts["again"]
            await self._take(0.0)  # what came meanwhile may forbid it
        for entry in self._ledger.asking():
            answer = self._ledger.answer(entry, held)
            if answer is None:
                continue
            number = (entry.asks or {})["number"]
            self._ledger.grant(entry, answer)
            await self._engine.send(
                node_workflow(self._inventory.roll, entry.name, entry.attempt),
                {"number": number, "answer": answer},
            )

    async def _show(self) -> None:
        summary = self._ledger.summary()
        if summary != self._seen:
            self._seen = summary
            await self._engine.publish("roll", summary)

    async def _notify(self, event: str, reason: str) -> None:
        ended = {
            state.value: self._ledger.count(state)
            for state in (State.DONE, State.FAILED, State.UNKNOWN)
        }
        await self._engine.step(
            "notify",
            {"event": event, "roll": self._inventory.roll, "reason": reason, "nodes": ended},
        )
