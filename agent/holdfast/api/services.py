"""The services that the HTTP interface uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.capability import C, Capability, find_capability
from holdfast.telemetry.spans import Spans

if TYPE_CHECKING:
    from holdfast.api.http.callers.audit import AuditLog
    from holdfast.config import Settings
    from holdfast.metrics import Metrics
    from holdfast.node.service import Node
    from holdfast.operations.service import Operations


_OBSERVE_SECONDS = 1.0


def _nothing_wrong() -> Sequence[str]:
    return ()


def _at_once(done: Callable[[], None]) -> None:
    done()


@dataclass(frozen=True)
class Services:
    """The parts that routes call; `daemon.py` puts them together."""

    settings: Settings
    state_dir: Path
    operations: Operations
    capabilities: Sequence[Capability]
    node: Node
    metrics: Metrics
    audit: AuditLog | None = None
    """Where calls are recorded; made by the application if it is not given."""
    degraded: Callable[[], Sequence[str]] = _nothing_wrong
    """Sentences on what keeps this daemon from being ready, as last observed; never blocks."""
    spans: Spans = field(default_factory=Spans)
    """Where requests are recorded for a collector of traces."""
    refresh: Callable[[Callable[[], None]], None] = _at_once
    """Observe it again, and call back from whatever thread; see `Readiness`."""

    def capability(self, kind: type[C]) -> C:
        """Return the capability of this class. Raises `LookupError` if there is none."""
        return find_capability(self.capabilities, kind)

    async def observed(self) -> Sequence[str]:
        """Return `degraded()` after a new observation, or the last one if that takes long."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def call_back() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        self.refresh(call_back)
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _OBSERVE_SECONDS)
        return self.degraded()

    notes: Sequence[str] = ()
    """Sentences on what was not as safe as it could be when the daemon started."""
