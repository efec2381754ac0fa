"""The real world of a roll: nodes over HTTP, the system's clock, the operator's commands."""

from __future__ import annotations

from holdfast_rollout.adapters.clock import SystemClock
from holdfast_rollout.adapters.http_node import HttpNode
from holdfast_rollout.adapters.surroundings import RealSurroundings
from holdfast_rollout.interfaces import Board
from holdfast_rollout.inventory import Inventory
from holdfast_rollout.steps import Context


def real_context(inventory: Inventory, board: Board) -> Context:
    """Return what the steps of an inventory need."""
    return Context(
        inventory=inventory,
        nodes=lambda name: HttpNode(inventory.node(name), inventory.access),
        clock=SystemClock(),
        surroundings=RealSurroundings(inventory),
        board=board,
    )
