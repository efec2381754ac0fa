"""What a roll of many nodes costs: its time beside the slowest nodes, and the controller."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console

from demo.fleet.controller import Controller
from demo.fleet.nodes import Fleet, FleetNode
from demo.fleet.report import moments
from holdfast_rollout.planning import waves

_LOOK_SECONDS = 1.0
_READ_OPERATION = "GET /v1/operations/{operation_id}"
CONTROLLER_BYTES = 200 << 20
SLOWER = 1.1
"""How many times the sum of the slowest of each wave a roll may take."""


class Timekeeper:
    """Reads the rollout's page while it runs: from when to when each node was disturbed."""

    def __init__(self, page: int) -> None:
        self.began: dict[str, float] = {}
        """POSIX times, as the controller recorded them."""
        self.ended: dict[str, float] = {}
        self.calls = 0
        """Of the controller, as it counts them: those of steps that wait or try again."""
        self._url = f"http://127.0.0.1:{page}/status.json"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Timekeeper:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        with httpx.Client(trust_env=False, timeout=30.0) as client:
            while not self._stop.wait(_LOOK_SECONDS):
                try:
                    self._take(client.get(self._url).json())
                except (httpx.TransportError, json.JSONDecodeError):
                    continue  # it does not run yet, or has ended

    def _take(self, board: Mapping[str, Any]) -> None:
        self.calls = int(board["requests"])
        for name, node in board["nodes"].items():
            if node.get("disturbed_at"):
                self.began[name] = float(node["disturbed_at"])

    def complete(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over when the nodes ended, as the rollout's database has it."""
        self.ended = {name: float(node["since"]) for name, node in nodes.items()}


@dataclass(frozen=True)
class Figures:
    """What was measured of one roll; seconds, and bytes."""

    nodes: int
    waves: int
    roll: float
    """From the first node that was disturbed to the last one that was released."""
    slowest: float
    """The sum of the slowest node of each wave."""
    controller: int
    calls: float
    """Of the controller to a node, on average."""
    reads: int
    """Of its operation, at most of one node, as the node counted them."""
    allowed: int
    """Such reads of the same node: one for each wait, and one for each `times.poll` in it."""

    @property
    def ratio(self) -> float:
        """How many times the slowest of each wave the roll took."""
        return self.roll / self.slowest

    def excess(self) -> list[str]:
        """Return what is above its limit, a sentence each."""
        sentences = []
        if self.ratio > SLOWER:
            sentences.append(f"The roll took {self.ratio:.2f} times the slowest of each wave.")
        if self.controller > CONTROLLER_BYTES:
            sentences.append(f"The controller had {self.controller >> 20} MiB.")
        if self.reads > self.allowed:
            sentences.append(f"An operation was read {self.reads} times, not {self.allowed}.")
        return sentences


def figures(fleet: Fleet, controller: Controller, times: Timekeeper) -> Figures:
    """Return the figures of a roll that has ended, all of whose nodes are done."""
    inventory = controller.inventory
    took = {name: times.ended[name] - times.began[name] for name in times.began}
    planned = [names for _, names in waves(inventory)]
    reads = {node: node.requests[_READ_OPERATION] for node in fleet.nodes}
    allowed = {node: _allowed(node, inventory.times.poll) for node in fleet.nodes}
    worst = max(fleet.nodes, key=lambda node: reads[node] - allowed[node])
    return Figures(
        nodes=len(took),
        waves=len(planned),
        roll=max(times.ended.values()) - min(times.began.values()),
        slowest=sum(max(took[name] for name in names) for names in planned),
        controller=controller.peak_bytes,
        calls=times.calls / len(took),
        reads=reads[worst],
        allowed=allowed[worst],
    )


def _allowed(node: FleetNode, poll: float) -> int:
    """Return how often the operation of a node may have been read.

    Once at the beginning of each wait, and once each `poll` seconds: until it is staged, which the
    controller learns up to `poll` seconds later, and through its boots.
    """
    came = moments(node.status["history"])
    staging = (came["staged"] - came["staging"]).total_seconds() + poll
    boots = (came["confirmed"] - came["rebooting"]).total_seconds()
    return 2 + int(staging // poll) + int(boots // poll)


def show(measured: Figures, out: Console) -> None:
    """Print figures, and how busy this machine is beside them."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    out.print(
        f"{measured.nodes} nodes in {measured.waves} waves: {measured.roll:.0f} s from the first "
        f"disturbance to the last release, {measured.ratio:.2f} times the sum of the slowest of "
        f"each wave ({measured.slowest:.0f} s)\n"
        f"controller: {measured.controller >> 20} MiB at most, {measured.calls:.1f} calls of each "
        "node\n"
        f"reads of an operation: {measured.reads}, of {measured.allowed} that one in each wait and "
        f"each `times.poll` make, at the node that is nearest to that or above it\n"
        f"this machine: {os.cpu_count()} processors, load {load}",
        soft_wrap=True,
    )
