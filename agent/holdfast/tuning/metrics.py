"""What is read of tuning at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from holdfast.metrics.scraped import ScrapedCollector

TuningFigures = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]
"""Settings in force, those that drifted and those that could not be reverted, by subsystem."""


class SettingsCollector(ScrapedCollector):
    """Counts the settings in force, those not as applied and those that could not be reverted."""

    def __init__(self, tuning: Callable[[], TuningFigures]) -> None:
        self._tuning = tuning

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        for name, text, values in zip(
            ("settings", "drifted_settings", "left_settings"),
            (
                "Settings that the applied profile put in force, by subsystem.",
                "Settings that were not as applied at the last check, by subsystem.",
                "Settings that could not be reverted, by subsystem.",
            ),
            self._tuning(),
            strict=True,
        ):
            family = GaugeMetricFamily(f"holdfast_tuning_{name}", text, labels=("subsystem",))
            for subsystem, count in values.items():
                family.add_metric((subsystem,), count)
            yield family
