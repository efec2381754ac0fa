"""Random rolls keep every invariant, and a fault in the code breaks the one that it is about."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from holdfast_rollout import steps
from holdfast_rollout.interfaces import Json
from holdfast_rollout.ledger import Entry, Ledger, State
from holdfast_rollout.node_roll import GO, _NodeRoll
from holdfast_rollout.steps.context import Pace
from tests.simulation.__main__ import simulate
from tests.simulation.invariants import ViolationError
from tests.simulation.schedules import run, schedule

SCHEDULES = 25
"""Of the suite; `make simulate-fleet` runs 10,000."""
SEEDS_TO_FIND = 20


def test_random_rolls_keep_every_invariant() -> None:
    results, violations = simulate(1, SCHEDULES)
    assert not violations
    # What was thrown at them was thrown: kills, failures, stops that were resumed.
    assert sum(sum(result.kills.values()) for result in results) > SCHEDULES
    ended = {state for result in results for state in result.summary["states"]}
    assert {"done", "failed", "aborted"} <= ended


def test_a_seed_stands_for_one_run() -> None:
    for seed in (5, 6):
        assert run(schedule(seed)) == run(schedule(seed))


def _first_violation(first: int) -> str:
    for seed in range(first, first + SEEDS_TO_FIND):
        try:
            run(schedule(seed))
        except ViolationError as error:
            return str(error)
    return "none"


def _never_stops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "stopped", property(lambda ledger: "" if not ledger.aborted else "Yes."))


def _ignores_zones(patch: pytest.MonkeyPatch) -> None:
    budget = Ledger._budget

    def wrong(self: Ledger, entry: Entry) -> str:
        why = budget(self, entry)
        return "" if why.startswith("Zone") else why

    patch.setattr(Ledger, "_budget", wrong)


def _ignores_the_budget(patch: pytest.MonkeyPatch) -> None:
    budget = Ledger._budget

    def wrong(self: Ledger, entry: Entry) -> str:
        why = budget(self, entry)
        return why if why.startswith("Zone") else ""

    patch.setattr(Ledger, "_budget", wrong)


def _forgets_what_failed(patch: pytest.MonkeyPatch) -> None:
    """A node that ended badly counts as serving again."""
    apply = Ledger.apply

    def wrong(self: Ledger, message: Json) -> None:
        apply(self, message)
        for entry in self.entries.values():
            if entry.state in (State.FAILED, State.UNKNOWN):
                entry.disturbed = False

    patch.setattr(Ledger, "apply", wrong)


def _asks_nobody(patch: pytest.MonkeyPatch) -> None:
    ask = _NodeRoll._ask

    async def wrong(self: _NodeRoll, purpose: str) -> str:
        return GO if purpose == "arm" else await ask(self, purpose)

    patch.setattr(_NodeRoll, "_ask", wrong)


def _makes_keys_anew(patch: pytest.MonkeyPatch) -> None:
    arguments = _NodeRoll._arguments

    def wrong(self: _NodeRoll, **members: Any) -> Json:
        return {**arguments(self, **members), "key": uuid.uuid4().hex}

    patch.setattr(_NodeRoll, "_arguments", wrong)


def _believes_nodes(patch: pytest.MonkeyPatch) -> None:
    async def wrong(_context: steps.Context, _arguments: Json) -> Json:
        return {"verdict": "go"}

    patch.setitem(steps.STEPS, "verify", wrong)


def _hurries(patch: pytest.MonkeyPatch) -> None:
    turn = Pace.turn

    async def wrong(self: Pace, at_least: float = 0.0) -> bool:
        self._last -= 20.0
        return await turn(self, at_least)

    patch.setattr(Pace, "turn", wrong)


def _keeps_retries_waiting(patch: pytest.MonkeyPatch) -> None:
    """What is tried again waits for a place that nodes behind it have."""
    to_start = Ledger.to_start

    def wrong(self: Ledger) -> Any:
        if self.count(State.PREPARING) < self.rules.ahead:
            yield from to_start(self)

    patch.setattr(Ledger, "to_start", wrong)


@pytest.mark.parametrize(
    ("fault", "invariants"),
    [
        (_never_stops, ("stop",)),
        (_ignores_zones, ("zones",)),
        (_ignores_the_budget, ("budget",)),
        (_forgets_what_failed, ("zones", "budget")),
        (_asks_nobody, ("stop",)),
        (_makes_keys_anew, ("cause", "once")),
        (_believes_nodes, ("truth",)),
        (_hurries, ("pace",)),
        (_keeps_retries_waiting, ("progress",)),
    ],
)
def test_a_fault_in_the_code_breaks_its_invariant(
    fault: Callable[[pytest.MonkeyPatch], None],
    invariants: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    # What a lost record does shows only where the controller is killed at the right call.
    found = _first_violation(38 if fault is _makes_keys_anew else 1)
    assert found.startswith(invariants), found
