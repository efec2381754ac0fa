"""How the roll ended: what the rollout recorded, beside what each node answers by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.fleet.nodes import FleetNode

_HEADINGS = ("zone", "node", "rollout", "daemon", "image", "boots", "down", "done at")


def report(
    nodes: Sequence[FleetNode], states: Mapping[str, str], began: datetime, out: Console
) -> list[str]:
    """Print the table; return the names of the nodes that are not done."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        right = heading in ("boots", "down", "done at")
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    lacking = []
    for node in nodes:
        status, recorded = node.status, states.get(node.name, "waiting")
        good = (recorded, status["state"], node.image_id) == ("done", "confirmed", "web-2")
        if not good:
            lacking.append(node.name)
        came = moments(status["history"])
        down, done = "", ""
        if "rebooting" in came and "booted" in came:
            down = f"{(came['booted'] - came['rebooting']).total_seconds():.1f} s"
        if "confirmed" in came:
            minutes, seconds = divmod(int((came["confirmed"] - began).total_seconds()), 60)
            done = f"{minutes}:{seconds:02}"
        cells = (recorded, status["state"], node.image_id, str(node.boots), down, done)
        table.add_row(node.address.zone, node.name, *cells, style="" if good else "bold red")
    out.print(table)
    return lacking


def moments(history: Sequence[Mapping[str, Any]]) -> dict[str, datetime]:
    """Return when each state was entered last."""
    return {
        str(entry["state"]): datetime.fromisoformat(str(entry["at"]).replace("Z", "+00:00"))
        for entry in history
    }
