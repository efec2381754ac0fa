"""Prometheus metrics: what is counted here, and what is read from operations at each scrape.

A scrape only reads memory. The residency of a big tree takes seconds to measure, so
it is sampled in the background (`pagecache/sampling.py`), and a scrape shows the last sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from holdfast.memory.models import MemoryFigures
from holdfast.metrics.collectors import (
    LeftOut,
    LeftOutCollector,
    MemoryCollector,
    NodeCollector,
    OperationsCollector,
    SettingsCollector,
    SpaceCollector,
    SpanCollector,
    SpanFigures,
    TransferCollector,
    TuningFigures,
    VerificationsCollector,
    Verified,
)
from holdfast.operations.service import Operations
from holdfast.pagecache.sampling import ResidencySampler
from holdfast.reimage.metrics import (
    ImageCollector,
    ImageFigures,
    InterlockCollector,
    InterlockFigures,
    ReimageCollector,
    ReimageFigures,
)
from holdfast.transfer.figures import TransferFigures

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The registry of this daemon. Methods may be called from any thread."""

    def __init__(
        self,
        operations: Operations,
        *,
        residency: Callable[[], Mapping[str, int]] | None = None,
        verified: Callable[[], Verified] | None = None,
        left_out: Callable[[], LeftOut] | None = None,
        tuning: Callable[[], TuningFigures] | None = None,
        degraded: Callable[[], Sequence[str]] | None = None,
        observed_age: Callable[[], float] | None = None,
        reimage: Callable[[], ReimageFigures] | None = None,
        space: Callable[[], tuple[int, int] | None] | None = None,
        node: Callable[[], Mapping[str, str]] | None = None,
        transfer: Callable[[], TransferFigures] | None = None,
        memory: Callable[[], MemoryFigures] | None = None,
        interlock: Callable[[], InterlockFigures] | None = None,
        images: Callable[[], ImageFigures] | None = None,
        spans: Callable[[], SpanFigures] | None = None,
    ) -> None:
        """`residency` returns resident bytes by root and may take long; the others are quick."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        sampler = ResidencySampler(residency) if residency is not None else None
        self._registry.register(OperationsCollector(operations, sampler))
        collectors = (
            None if verified is None else VerificationsCollector(verified),
            None if left_out is None else LeftOutCollector(left_out),
            None if tuning is None else SettingsCollector(tuning),
            None if reimage is None else ReimageCollector(reimage),
            None if interlock is None else InterlockCollector(interlock),
            None if images is None else ImageCollector(images),
            None if spans is None else SpanCollector(spans),
            None if node is None else NodeCollector(node),
            None if space is None else SpaceCollector(space),
            None if transfer is None else TransferCollector(transfer),
            None if memory is None else MemoryCollector(memory),
        )
        for collector in collectors:
            if collector is not None:
                self._registry.register(collector)
        if degraded is not None:
            ready = Gauge(
                "holdfast_ready",
                "1 if the daemon can do all of its work, as /readyz reports; else 0.",
                registry=self._registry,
            )
            ready.set_function(lambda: 0.0 if degraded() else 1.0)
        if observed_age is not None:
            age = Gauge(
                "holdfast_ready_age_seconds",
                "Seconds since the state in holdfast_ready was observed; it grows while a root "
                "does not answer.",
                registry=self._registry,
            )
            age.set_function(observed_age)
        self._requests = Counter(
            "holdfast_http_requests",
            "HTTP requests served, by method, route template and status code.",
            ("method", "route", "code"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "holdfast_http_request_duration_seconds",
            "Time from a request's arrival to the last byte of its answer, by route template; "
            "long polls and event streams take as long as their clients ask.",
            ("route",),
            buckets=BUCKETS,
            registry=self._registry,
        )

    def observe_request(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count a served request. `route` is a template, never a path that a client chose."""
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(code)).inc()
        self._durations.labels(route).observe(seconds)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition that the `Accept` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
