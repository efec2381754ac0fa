"""What the view shows of nodes that do not answer, and of those that an earlier process left."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast_rollout.board import LiveBoard
from holdfast_rollout.interfaces import Away, OperationStatus
from holdfast_rollout.inventory import Inventory, parse_inventory
from holdfast_rollout.steps import Context
from holdfast_rollout.steps.preparing import staged
from tests.support.fleet.rollout import IMAGE

_STAGING = OperationStatus("01", "running", "downloading", bytes_done=1, bytes_expected=4)


class _Clock:
    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds


def _inventory() -> Inventory:
    nodes = [{"name": name, "zone": "a", "url": f"https://{name}:9918"} for name in ("a-1", "a-2")]
    return parse_inventory({"roll": "roll", "image": IMAGE, "nodes": nodes}, "roll.toml")


def test_a_node_that_is_away_while_it_stages_is_shown_so() -> None:
    inventory = _inventory()
    board = LiveBoard(inventory)
    seen: list[tuple[Any, Any]] = []
    ended = OperationStatus("01", "running", "staged")
    answers: list[OperationStatus | Away] = [_STAGING, Away("refused"), ended]

    class Node:
        async def operation(self, _operation: str, _wait: float) -> OperationStatus:
            shown = board.snapshot()["nodes"]["a-1"]
            seen.append((shown.get("phase"), shown.get("bytes_expected")))
            answer = answers.pop(0)
            if isinstance(answer, Away):
                raise answer
            return answer

    node: Any = Node()
    world: Any = None
    context = Context(inventory, lambda _name: node, _Clock(), world, board)
    result = asyncio.run(staged(context, "a-1", _STAGING, 600.0))
    assert result["verdict"] == "go"
    assert seen == [(None, None), ("downloading", 4), ("unreachable", None)]


def test_what_an_earlier_process_left_is_shown_until_there_is_something_newer() -> None:
    board = LiveBoard(_inventory())
    board.node("a-2", {"state": "checking", "zone": "a"})
    for name in ("a-1", "a-2"):
        board.recall(name, {"state": "failed", "zone": "a"})
    states = {name: node["state"] for name, node in board.snapshot()["nodes"].items()}
    assert states == {"a-1": "failed", "a-2": "checking"}
