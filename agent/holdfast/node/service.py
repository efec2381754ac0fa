"""Everything that is told of this machine, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.node.devices import Sysfs
from holdfast.node.identity import identify
from holdfast.node.memory import read_memory
from holdfast.node.models import NodeReport
from holdfast.node.topology import describe_root


class Node:
    """Looks at the machine, anew each time: disks come and go, and so do roots."""

    def __init__(self, *, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)
        self._sysfs = Sysfs()

    def report(self) -> NodeReport:
        """Read everything; blocks for a few milliseconds. Raises `OSError` without /proc."""
        return NodeReport(
            **identify().model_dump(),
            memory=read_memory(),
            roots=[describe_root(root, sysfs=self._sysfs) for root in self._roots],
        )
