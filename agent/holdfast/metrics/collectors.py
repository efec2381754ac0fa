"""What is read from the parts of the daemon at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast import __version__
from holdfast.memory.models import MemoryFigures
from holdfast.operations.model import State
from holdfast.operations.results import Outcome
from holdfast.operations.service import Operations
from holdfast.operations.statistics import KindFigures
from holdfast.pagecache.sampling import ResidencySampler
from holdfast.transfer.figures import TransferFigures

Verified = Mapping[tuple[str, bool], int]
"""Verifications by root and whether all was well."""
LeftOut = Mapping[tuple[str, str], int]
"""Names that were left out, by root and reason."""
TuningFigures = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]
"""Settings in force, those that drifted and those that could not be reverted, by subsystem."""
SpanFigures = tuple[int, int]
"""Spans that a collector of traces received, and spans that were lost."""


class ScrapedCollector(Collector):
    """Yields families made of figures that are read at each scrape."""

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering does not collect."""
        return ()


class OperationsCollector(ScrapedCollector):
    """Reads operations, and the residency they change, at each scrape."""

    def __init__(self, operations: Operations, sampler: ResidencySampler | None) -> None:
        self._operations = operations
        self._sampler = sampler

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
        if self._sampler is not None:
            yield from self._residency(self._sampler, figures)

    @staticmethod
    def _residency(
        sampler: ResidencySampler, figures: Mapping[str, KindFigures]
    ) -> Iterable[Metric]:
        ended = sum(sum(figure.finished.values()) for figure in figures.values())
        sample, taken_at = sampler.latest(ended)
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
