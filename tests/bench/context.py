"""The context of every benchmark."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.machine import Device
from tests.bench.peers import Happycache
from tests.bench.tree import Tree, database_sizes, make

_DEVICE_SECONDS = 60.0
_IDLE_SECONDS = 0.1
_POLL_SECONDS = 0.001
_TRICKLE_SECTORS = 512
"""256 KiB in the time above; a device at work reads a hundred times as much."""


@dataclass
class Context:
    """Where to work, how often, and with which peers."""

    work: Path
    rounds: int
    scale: float
    small_files: int
    happycache: Happycache | None
    device: Device
    curves: Path | None = None
    """Where `warm` keeps its curves for the figure of the documents."""
    _tree: Tree | None = field(default=None, repr=False)

    @property
    def tree(self) -> Tree:
        """The tree of a database's files; written when it is first asked for."""
        if self._tree is None:
            self._tree = make(
                self.work / "tree",
                database_sizes(self.scale),
                self.say,
                label=f"database {self.scale:g}",
            )
        return self._tree

    def say(self, text: str) -> None:
        """Report to the person who waits; on standard error, apart from the report."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def wait_for_device(self) -> float:
        """Return once the device has nothing to read, and return when it last completed a read.

        The time is that of `time.monotonic()`. Requests that wait in the scheduler are not counted
        as in flight, so a single sample of an idle device proves nothing: it has to stay idle, but
        for the trickle of small reads that there is on any machine.
        """
        began = last = time.monotonic()
        sectors, was_in_flight = self.device.activity()
        while True:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            seen, in_flight = self.device.activity()
            if seen - sectors >= _TRICKLE_SECTORS or (in_flight and was_in_flight):
                sectors, last = seen, now
            elif now - last > _IDLE_SECONDS:
                return last
            was_in_flight = in_flight
            if now - began > _DEVICE_SECONDS:
                raise TimeoutError(f"{self.device.name} is busy with something else")
