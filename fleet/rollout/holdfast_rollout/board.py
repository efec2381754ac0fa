"""Where a roll is, as it is shown: in memory, for the terminal, the page and the metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from holdfast_rollout.interfaces import Json
from holdfast_rollout.inventory import Inventory

IDLE = "waiting"
ENDED = frozenset({"done", "failed", "unknown", "aborted", "accepted"})


class LiveBoard:
    """Members of the roll and of each node. Safe to use from any thread."""

    def __init__(self, inventory: Inventory) -> None:
        self.roll_name = inventory.roll
        self._per_zone = inventory.rules.per_zone
        self._lock = threading.Lock()
        self._roll: Json = {}
        self._nodes: dict[str, Json] = {
            node.name: {"state": IDLE, "zone": node.zone} for node in inventory.nodes
        }
        self._took: list[float] = []
        self.requests: Counter[str] = Counter()

    def node(self, name: str, members: Json) -> None:
        """Show members of a node."""
        with self._lock:
            shown = self._nodes.setdefault(name, {})
            if members.get("disturbed") and not shown.get("disturbed"):
                shown["disturbed_at"] = members.get("since", time.time())
            if members.get("state") in ENDED and shown.get("disturbed_at"):
                self._took.append(float(members["since"]) - float(shown.pop("disturbed_at")))
            if "state" in members:
                for name_of_progress in ("bytes_done", "bytes_expected", "phase"):
                    shown.pop(name_of_progress, None)
            shown.update(members)

    def recall(self, name: str, members: Json) -> None:
        """Show members of a node as an earlier process left them, unless it has newer ones."""
        with self._lock:
            if self._nodes[name]["state"] == IDLE:
                self._nodes[name].update(members)

    def roll(self, members: Json) -> None:
        """Show members of the roll."""
        with self._lock:
            self._roll.update(members)

    def requested(self, name: str) -> None:
        """Count a request to a node."""
        with self._lock:
            self.requests[name] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return everything as it is now; `seconds_left` is None until a node has ended."""
        with self._lock:
            nodes = {name: dict(members) for name, members in self._nodes.items()}
            roll = dict(self._roll)
            took = list(self._took)
        waiting = sum(members["state"] not in ENDED for members in nodes.values())
        left = None
        if took:
            left = sum(took) / len(took) * -(-waiting // self._per_zone)
        zones: dict[str, list[str]] = {}
        for name, members in nodes.items():
            zones.setdefault(str(members.get("zone")), []).append(name)
        return {
            "roll": self.roll_name,
            "summary": roll,
            "nodes": nodes,
            "zones": zones,
            "seconds_left": left,
            "seconds_per_node": sum(took) / len(took) if took else None,
            "requests": sum(self.requests.values()),
        }
