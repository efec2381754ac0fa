"""What is read of caches in memory at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric

from holdfast.memory.models import MemoryFigures
from holdfast.metrics.scraped import ScrapedCollector


class MemoryCollector(ScrapedCollector):
    """Shows each root in memory with its latest save."""

    def __init__(self, figures: Callable[[], MemoryFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        used = GaugeMetricFamily(
            "holdfast_memory_root_used_bytes", "Bytes in use in the tmpfs.", labels=("root",)
        )
        made = GaugeMetricFamily(
            "holdfast_memory_save_timestamp_seconds",
            "When the latest save of a root was made, in Unix time.",
            labels=("root",),
        )
        fresh = GaugeMetricFamily(
            "holdfast_memory_save_fresh",
            "1 if the latest save was not restored yet, nor a service started without it; else 0.",
            labels=("root",),
        )
        for root, used_bytes, save in self._figures():
            if used_bytes is not None:
                used.add_metric((root,), used_bytes)
            if save is not None:
                made.add_metric((root,), save.created_at.timestamp())
                fresh.add_metric((root,), float(save.used_at is None))
        yield from (used, made, fresh)
