"""What a capability is to the daemon, the HTTP interface and the metrics: they know no more of it.

`capabilities.py` has the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.registry import Collector

    from holdfast.config import Settings
    from holdfast.node.service import Node
    from holdfast.operations.kinds import Kind
    from holdfast.operations.service import Operations
    from holdfast.storage.left_out import LeftOut

STOP_SECONDS = 0.5
"""`Capability.running` ends within about this time, whatever its threads do."""


class Capability:
    """A capability of this node. What it does not need of these it leaves as it is."""

    def prepare(self) -> None:
        """Settle what an earlier process left, before any operation runs."""

    def kinds(self) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of operation that it runs."""
        return ()

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what metrics read of it at each scrape; `holdfast.metrics` is imported here."""
        del operations
        return ()

    def running(self, operations: Operations) -> AbstractContextManager[None]:
        """Do for as long as the block runs what it does beside operations, which are recovered.

        Ends within `STOP_SECONDS`. Raises `OSError` where it cannot be done.
        """
        del operations
        return nullcontext()

    def check_unused(self, key: str | None) -> None:
        """Raise `RequestError` if this idempotency key was used for a call that is no operation."""


C = TypeVar("C", bound=Capability)


def find_capability(capabilities: Iterable[Capability], kind: type[C]) -> C:
    """Return the first capability of this class. Raises `LookupError` if there is none."""
    for capability in capabilities:
        if isinstance(capability, kind):
            return capability
    raise LookupError(f"there is no capability {kind.__name__}")


@dataclass(frozen=True)
class Surroundings:
    """The parts of the daemon that capabilities are made from."""

    settings: Settings
    state_dir: Path
    node: Node
    operations: Operations
    """Not to be used before they are recovered, when all capabilities are made."""
    left_out: LeftOut
    degraded: Callable[[], Sequence[str]]
    """Returns sentences on what keeps the daemon from all of its work. May block."""
    notes: Callable[[], Sequence[str]]
    """Returns sentences on what is not as safe as it could be."""
    record: Callable[[Mapping[str, Any]], None]
    """Writes a line to the audit log."""
    made: list[Capability] = field(default_factory=list)
    """The capabilities that are earlier in the table."""

    def other(self, kind: type[C]) -> C:
        """Return a capability that another one needs. Raises `LookupError` if it comes later."""
        return find_capability(self.made, kind)
