"""Prometheus metrics: what is counted here, and what collectors read at each scrape.

A scrape only reads memory. The residency of a big tree takes seconds to measure, so
it is sampled in the background (`pagecache/sampling.py`), and a scrape shows the last sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
from prometheus_client.registry import Collector

from holdfast.metrics.collectors import OperationsCollector
from holdfast.operations.service import Operations

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The registry of this daemon. Methods may be called from any thread."""

    def __init__(
        self,
        operations: Operations,
        *,
        collectors: Iterable[Collector] = (),
        degraded: Callable[[], Sequence[str]] | None = None,
        observed_age: Callable[[], float] | None = None,
    ) -> None:
        """`collectors` are those of capabilities and of other parts of the daemon."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(OperationsCollector(operations))
        for collector in collectors:
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
