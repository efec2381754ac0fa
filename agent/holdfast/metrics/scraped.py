"""What all collectors have in common: they read figures from memory at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class ScrapedCollector(Collector):
    """Yields families made of figures that are read at each scrape."""

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering does not collect."""
        return ()
