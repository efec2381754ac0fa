"""What is recorded of requests and operations for a collector of traces: here, nothing.

`otlp.py` has what records and sends spans. It is imported only where the settings name a collector,
so that a daemon without one starts no later.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.config import Settings
    from holdfast.operations.model import Operation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """A request of a known caller, and its answer."""

    method: str
    route: str
    path: str
    status: int
    caller: str
    address: str
    transport: str
    operation: str | None = None
    """The operation that it started or is about."""


class RequestSpan:
    """A request that is being answered."""

    traceparent: str
    """Names it to what is asked on its behalf."""

    def end(self, answered: Answered) -> None:
        """Record it. One that does not come to this is not recorded."""


class Spans:
    """Records nothing: what is passed on is what was received. Methods are for any thread."""

    def request(self) -> RequestSpan | None:
        """Begin the span of a request in the trace of this task; None where none is recorded."""
        return None

    def within(self, operation_id: str, traceparent: str | None) -> str | None:
        """Return the `traceparent` of what an operation asks of others, from that of its caller."""
        del operation_id
        return traceparent

    def ended(self, operation: Operation) -> None:
        """Record an operation that came to its end. Never blocks, never raises."""

    def figures(self) -> tuple[int, int]:
        """Return how many spans were exported, and how many were lost."""
        return 0, 0

    def stop(self, seconds: float) -> None:
        """Export what is there, within about `seconds`."""


def spans_of(settings: Settings, node: Mapping[str, str]) -> Spans:
    """Return what records spans by the settings. Whatever is wrong costs spans, and nothing else.

    `node` has what identifies this one, as in the metric `holdfast_node_info`.
    """
    telemetry = settings.telemetry
    if not telemetry.endpoint:
        return Spans()
    try:
        from holdfast.telemetry.otlp import OtlpSpans  # noqa: PLC0415 - optional, slow to import

        return OtlpSpans(telemetry, node)
    except ImportError as error:
        log.warning("No spans are exported: the extra holdfast[otel] is not usable: %s.", error)
    except (OSError, ValueError) as error:
        log.warning("No spans are exported: %s.", error)
    return Spans()
