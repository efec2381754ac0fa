"""A roll in a terminal: zones as columns, nodes as cells; elsewhere a line for each change."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from holdfast_rollout.board import LiveBoard

_STYLES = {
    "done": "green",
    "accepted": "green",
    "failed": "bold red",
    "unknown": "bold red",
    "waiting": "dim",
    "ready": "dim",
    "checking": "cyan",
    "staging": "cyan",
    "held": "yellow",
}
_POLL_SECONDS = 0.2


class TerminalView:
    """Shows a board until the end of the block."""

    def __init__(self, board: LiveBoard, *, plain: bool, address: str | None) -> None:
        self._board = board
        self._plain = plain
        self._address = address
        self._began = time.monotonic()
        self._out = Console(highlight=False, soft_wrap=plain)
        self._seen: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._live = Live(
            get_renderable=self._render, console=self._out, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> TerminalView:
        if self._address:
            self._out.print(f"page: {self._address}")
        if self._plain:
            self._thread.start()
        else:
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        if self._plain:
            self._thread.join()
            self._lines()
            self._out.print(headline(self._board.snapshot()))
        else:
            self._live.stop()

    def _render(self) -> RenderableType:
        seconds = time.monotonic() - self._began
        return Group(Text(clock(seconds), style="dim"), table(self._board.snapshot()))

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._lines()

    def _lines(self) -> None:
        shown = self._board.snapshot()
        for name, members in shown["nodes"].items():
            now = f"{members['state']} {members.get('reason') or ''}".strip()
            if self._seen.get(name, "waiting") != now:
                self._seen[name] = now
                moment = clock(time.monotonic() - self._began)
                self._out.print(f"{moment}  {members.get('zone', '')} {name}: {now}")


def table(shown: dict[str, Any]) -> RenderableType:
    """Return a snapshot of a board as a table with a headline."""
    zones = shown["zones"]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    disturbed = shown["summary"].get("disturbed", {})
    for zone in zones:
        grid.add_column(f"{zone} ({disturbed.get(zone, 0)} disturbed)", no_wrap=True)
    for row in range(max(map(len, zones.values()), default=0)):
        cells = [names[row] if row < len(names) else None for names in zones.values()]
        grid.add_row(*(cell(name, shown["nodes"][name]) if name else "" for name in cells))
    reasons = [
        Text(f"{name}: {members['reason']}", style="red")
        for name, members in shown["nodes"].items()
        if members["state"] in ("failed", "unknown") and members.get("reason")
    ]
    return Group(Text(headline(shown), style="bold"), grid, *reasons)


def cell(name: str, members: dict[str, Any]) -> Text:
    """Return a node with its state and how far it is."""
    state = str(members["state"])
    detail = state
    expected = members.get("bytes_expected")
    if state in ("staging", "following") and members.get("phase"):
        detail = str(members["phase"])
    if expected:
        rate = int(members.get("bytes_per_second") or 0) >> 20
        detail += f" {members['bytes_done'] / expected:.0%} {rate} MiB/s"
    return Text(f"{name} {detail}", style=_STYLES.get(state, "magenta"))


def headline(shown: dict[str, Any]) -> str:
    """Return the roll in one line."""
    summary = shown["summary"]
    states: dict[str, int] = {}
    for members in shown["nodes"].values():
        states[members["state"]] = states.get(members["state"], 0) + 1
    done = states.get("done", 0) + states.get("accepted", 0)
    parts = [f"{shown['roll']}: {done} of {len(shown['nodes'])} done"]
    parts += [f"{states[state]} {state}" for state in ("failed", "unknown") if state in states]
    if shown["seconds_left"] is not None and done < len(shown["nodes"]):
        parts.append(f"about {clock(shown['seconds_left'])} left")
    if summary.get("paused"):
        parts.append("PAUSED")
    if summary.get("stopped"):
        parts.append(f"STOPPED: {summary['stopped']}")
    elif summary.get("waits"):
        parts.append(str(summary["waits"]))
    return "; ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
