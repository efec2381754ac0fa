"""What metrics show of transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class TransferFigures:
    """Totals since the daemon started, and offers as they are now."""

    sent_bytes: Mapping[str, int]
    """By level of proof."""
    received_bytes: Mapping[str, int]
    """By level of proof."""
    limited_seconds: Mapping[str, float]
    """By what limited passes."""
    offers: Mapping[str, int]
    """By state."""
    connections: int


class TransferCollector(Collector):
    """Reads the figures at each scrape."""

    def __init__(self, figures: Callable[[], TransferFigures]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering does not collect."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        figures = self._figures()
        for name, text, counts in (
            ("sent", "Bytes of files sent to destinations, by level of proof.", figures.sent_bytes),
            ("received", "Bytes of files fetched, by level of proof.", figures.received_bytes),
        ):
            moved = CounterMetricFamily(f"holdfast_transfer_{name}_bytes", text, labels=("proof",))
            for proof, count in counts.items():
                moved.add_metric((proof,), count)
            yield moved
        limited = CounterMetricFamily(
            "holdfast_transfer_limited_seconds",
            "Time of transfers into this node, by what limited them.",
            labels=("by",),
        )
        for by, seconds in figures.limited_seconds.items():
            limited.add_metric((by,), seconds)
        yield limited
        offers = GaugeMetricFamily(
            "holdfast_transfer_offers", "Offers of this node, by state.", labels=("state",)
        )
        for state, count in figures.offers.items():
            offers.add_metric((state,), count)
        yield offers
        yield GaugeMetricFamily(
            "holdfast_transfer_connections",
            "Connections of destinations that proved their ticket, now.",
            figures.connections,
        )
