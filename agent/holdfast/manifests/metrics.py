"""What is read of manifests at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, Metric

from holdfast.metrics.scraped import ScrapedCollector

Verified = Mapping[tuple[str, bool], int]
"""Verifications by root and whether all was well."""


class VerificationsCollector(ScrapedCollector):
    """Reports the results of verifications: an operation that finds a difference succeeds too."""

    def __init__(self, verified: Callable[[], Verified]) -> None:
        self._verified = verified

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        family = CounterMetricFamily(
            "holdfast_manifest_verifications",
            "Verifications that came to their end, by root and whether nothing differed.",
            labels=("root", "ok"),
        )
        for (root, ok), count in self._verified().items():
            family.add_metric((root, str(ok).lower()), count)
        yield family
