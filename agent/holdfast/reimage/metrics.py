"""What is read from re-imaging at each scrape: its state, what it asks before, and its images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from holdfast.metrics.scraped import ScrapedCollector
from holdfast.reimage.models import ImagerReport
from holdfast.reimage.states import ReimageState

InterlockFigures = tuple[bool, bool, Mapping[str, int]]
"""Whether the lock is held, whether a window is open, and refusals by gate."""
ImageFigures = tuple[Mapping[str, int], int]
"""Bytes of images received, by kind of source, and bytes served to peers."""
ReimageFigures = tuple[ReimageState, int, ImagerReport | None]
"""The state, the checks of the new system that failed, and what the imager reported."""


class ReimageCollector(ScrapedCollector):
    """Reports where the machine is on its way to another image."""

    def __init__(self, figures: Callable[[], ReimageFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        state, failed, report = self._figures()
        states = GaugeMetricFamily(
            "holdfast_reimage_state",
            "1 for the state that re-imaging is in, 0 for every other.",
            labels=("state",),
        )
        for each in ReimageState:
            states.add_metric((each.value,), int(each is state))
        yield states
        yield GaugeMetricFamily(
            "holdfast_reimage_failed_checks",
            "Checks of the new system that failed when last made.",
            failed,
        )
        if report is None:
            return
        seconds = GaugeMetricFamily(
            "holdfast_reimage_phase_seconds",
            "How long each phase of the imager that wrote this system took.",
            labels=("phase",),
        )
        for phase in report.phases:
            seconds.add_metric((phase.phase,), phase.seconds)
        yield seconds
        yield GaugeMetricFamily(
            "holdfast_reimage_resumed",
            "How often the imager that wrote this system was booted from the lifeboat.",
            report.resumed,
        )


class InterlockCollector(ScrapedCollector):
    """Shows what keeps the machine from going down."""

    def __init__(self, figures: Callable[[], InterlockFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        held, is_open, refusals = self._figures()
        yield GaugeMetricFamily(
            "holdfast_fleet_lock_held", "1 while the fleet's lock is held, or may be.", int(held)
        )
        yield GaugeMetricFamily(
            "holdfast_maintenance_window_open",
            "1 while a maintenance window is open, or where there is none.",
            int(is_open),
        )
        counts = CounterMetricFamily(
            "holdfast_reboot_refusals",
            "Reboots that were held back, by what said no.",
            labels=("gate",),
        )
        for gate, count in refusals.items():
            counts.add_metric((gate,), count)
        yield counts


class ImageCollector(ScrapedCollector):
    """Counts the bytes of images that came, and those that were given away."""

    def __init__(self, figures: Callable[[], ImageFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        received, served = self._figures()
        came = CounterMetricFamily(
            "holdfast_image_received_bytes",
            "Bytes of images that were staged here, by the kind of source.",
            labels=("source",),
        )
        for source in ("origin", "mirror", "peer"):
            came.add_metric((source,), received.get(source, 0))
        yield came
        yield CounterMetricFamily(
            "holdfast_image_served_bytes", "Bytes of the staged image read for peers.", served
        )
