"""What is read of transfers at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from holdfast.metrics.scraped import ScrapedCollector
from holdfast.transfer.figures import TransferFigures


class TransferCollector(ScrapedCollector):
    """Reads the figures at each scrape."""

    def __init__(self, figures: Callable[[], TransferFigures]) -> None:
        self._figures = figures

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
