"""What is read at each scrape from the parts of the daemon that are no capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from holdfast import __version__
from holdfast.metrics.scraped import ScrapedCollector
from holdfast.operations.model import State
from holdfast.operations.results import Outcome
from holdfast.operations.service import Operations
from holdfast.operations.statistics import KindFigures

LeftOut = Mapping[tuple[str, str], int]
"""Names that were left out, by root and reason."""
SpanFigures = tuple[int, int]
"""Spans that a collector of traces received, and spans that were lost."""


class OperationsCollector(ScrapedCollector):
    """Reads operations."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        build = GaugeMetricFamily(
            "holdfast_build_info", "The version that runs; always 1.", labels=("version",)
        )
        build.add_metric((__version__,), 1)
        yield build
        figures = self._operations.figures()
        yield from _totals(figures)
        yield from _gauges(figures)


class LeftOutCollector(ScrapedCollector):
    """Reports what of each root no response covers."""

    def __init__(self, left_out: Callable[[], LeftOut]) -> None:
        self._left_out = left_out

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        family = GaugeMetricFamily(
            "holdfast_left_out_files",
            "Names, each with all below it, that the last builds, verifications, dumps, evictions "
            "and residency reports over a whole root left out, by reason; absent before the first.",
            labels=("root", "reason"),
        )
        for (root, reason), count in self._left_out().items():
            family.add_metric((root, reason), count)
        yield family


class SpanCollector(ScrapedCollector):
    """Counts spans for a collector of traces."""

    def __init__(self, figures: Callable[[], SpanFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        family = CounterMetricFamily(
            "holdfast_telemetry_spans",
            "Spans of requests and operations, by whether a collector of traces received them.",
            labels=("result",),
        )
        for result, count in zip(("exported", "lost"), self._figures(), strict=True):
            family.add_metric((result,), count)
        yield family


class NodeCollector(ScrapedCollector):
    """Shows which node this is."""

    def __init__(self, info: Callable[[], Mapping[str, str]]) -> None:
        self._info = info

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        info = self._info()
        family = GaugeMetricFamily(
            "holdfast_node_info",
            "Which node this is, and which image runs on it; always 1. Labels of the settings have "
            "the prefix label_.",
            labels=tuple(info),
        )
        family.add_metric(tuple(info.values()), 1)
        yield family


class SpaceCollector(ScrapedCollector):
    """Shows how much of the data volume is free, and how much of that has to stay so."""

    def __init__(self, figures: Callable[[], tuple[int, int] | None]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield the families, with nothing in them while nothing is known."""
        for name, text, value in zip(
            ("free", "free_floor"),
            (
                "Free bytes of the volume that the state directory is on, sampled at most every "
                "10 s while scraped.",
                "Bytes of that volume that have to stay free: holdfast writes nothing that would "
                "go below (`data.free_space_floor`).",
            ),
            self._figures() or (None, None),
            strict=True,
        ):
            family = GaugeMetricFamily(f"holdfast_state_volume_{name}_bytes", text)
            if value is not None:
                family.add_metric((), value)
            yield family


def _totals(figures: Mapping[str, KindFigures]) -> Iterable[Metric]:
    started = CounterMetricFamily(
        "holdfast_operations_started",
        "Operations accepted, or taken up again when the daemon started.",
        labels=("kind",),
    )
    finished = CounterMetricFamily(
        "holdfast_operations_finished",
        "Operations that ended, by the state in which they did.",
        labels=("kind", "outcome"),
    )
    judged = CounterMetricFamily(
        "holdfast_operations",
        "Operations that ended, by state and, of those that succeeded, by outcome.",
        labels=("kind", "state", "outcome"),
    )
    read = CounterMetricFamily(
        "holdfast_read_bytes", "Bytes of file data read by operations.", labels=("kind",)
    )
    for kind, of_kind in figures.items():
        started.add_metric((kind,), of_kind.started)
        for state in State:
            if state.final:
                finished.add_metric((kind, state.value), of_kind.finished[state])
                if state is not State.SUCCEEDED:
                    judged.add_metric((kind, state.value, "none"), of_kind.finished[state])
        for outcome in Outcome:
            judged.add_metric(
                (kind, State.SUCCEEDED.value, outcome.value), of_kind.outcomes[outcome]
            )
        read.add_metric((kind,), of_kind.read_bytes)
    return started, finished, judged, read


_GAUGES: tuple[tuple[str, str, Callable[[KindFigures], float | None]], ...] = (
    ("running", "Operations running now.", lambda of_kind: of_kind.running),
    (
        "progress_bytes",
        "Bytes done by the running operations, or by the one that ended last.",
        lambda of_kind: of_kind.progress.bytes_done,
    ),
    (
        "expected_bytes",
        "Bytes expected in all by the same operations; absent while not known.",
        lambda of_kind: of_kind.progress.bytes_expected,
    ),
    (
        "progress_files",
        "Files done by the running operations, or by the one that ended last.",
        lambda of_kind: of_kind.progress.files_done,
    ),
    (
        "expected_files",
        "Files expected in all by the same operations; absent while not known.",
        lambda of_kind: of_kind.progress.files_expected,
    ),
    (
        "last_progress_timestamp_seconds",
        "Unix time when an operation was last seen to advance; absent before the first.",
        lambda of_kind: of_kind.last_progress,
    ),
    (
        "last_success_timestamp_seconds",
        "Unix time when an operation last succeeded, also before a restart; absent before the "
        "first.",
        lambda of_kind: of_kind.last_success,
    ),
    (
        "last_duration_seconds",
        "Time from start to end of the operation that succeeded last.",
        lambda of_kind: of_kind.last_duration,
    ),
)


def _gauges(figures: Mapping[str, KindFigures]) -> Iterable[Metric]:
    for name, text, value_of in _GAUGES:
        family = GaugeMetricFamily(f"holdfast_operation_{name}", text, labels=("kind",))
        for kind, of_kind in figures.items():
            value = value_of(of_kind)
            if value is not None:
                family.add_metric((kind,), value)
        yield family
