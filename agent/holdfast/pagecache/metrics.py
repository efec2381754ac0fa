"""What is read of the page cache at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from holdfast.metrics.scraped import ScrapedCollector
from holdfast.operations.service import Operations
from holdfast.pagecache.sampling import ResidencySampler


class ResidencyCollector(ScrapedCollector):
    """Reads the last sample of residency, and has another one taken where operations ended."""

    def __init__(self, operations: Operations, measure: Callable[[], Mapping[str, int]]) -> None:
        """`measure` returns resident bytes by root and may take long."""
        self._operations = operations
        self._sampler = ResidencySampler(measure)

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        figures = self._operations.figures()
        ended = sum(sum(figure.finished.values()) for figure in figures.values())
        sample, taken_at = self._sampler.latest(ended)
        resident = GaugeMetricFamily(
            "holdfast_pagecache_resident_bytes",
            "Bytes of each root's files in the page cache at the last background sample, taken at "
            "most once a minute while scraped and after an operation ended; absent before the "
            "first.",
            labels=("root",),
        )
        for root, value in sample.items():
            resident.add_metric((root,), value)
        yield resident
        taken = GaugeMetricFamily(
            "holdfast_pagecache_sample_timestamp_seconds",
            "Unix time of the sample in holdfast_pagecache_resident_bytes.",
        )
        if taken_at is not None:
            taken.add_metric((), taken_at)
        yield taken
