"""A roll for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from holdfast_rollout.board import LiveBoard


class _BoardCollector(Collector):
    def __init__(self, board: LiveBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        shown = self._board.snapshot()
        summary = shown["summary"]
        nodes = GaugeMetricFamily(
            "holdfast_rollout_nodes", "Nodes by zone and state.", labels=["zone", "state"]
        )
        counts = Counter((each["zone"], each["state"]) for each in shown["nodes"].values())
        for (zone, state), count in sorted(counts.items()):
            nodes.add_metric([zone, state], count)
        yield nodes
        disturbed = GaugeMetricFamily(
            "holdfast_rollout_disturbed_nodes", "Nodes that are not fit to serve.", labels=["zone"]
        )
        for zone, count in summary.get("disturbed", {}).items():
            disturbed.add_metric([zone], count)
        yield disturbed
        for name, text, value in (
            ("stopped", "Whether a rule has stopped the roll.", bool(summary.get("stopped"))),
            ("paused", "Whether an operator has paused it.", bool(summary.get("paused"))),
        ):
            yield GaugeMetricFamily(f"holdfast_rollout_{name}", text, value=float(value))
        if shown["seconds_left"] is not None:
            yield GaugeMetricFamily(
                "holdfast_rollout_left_seconds",
                "Estimated time until all nodes are done.",
                value=shown["seconds_left"],
            )
        yield CounterMetricFamily(
            "holdfast_rollout_waiting_requests",
            "Requests to nodes by steps that wait or try again.",
            value=shown["requests"],
        )


def registry_of(board: LiveBoard) -> CollectorRegistry:
    """Return a registry with the metrics of a board."""
    registry = CollectorRegistry()
    registry.register(_BoardCollector(board))
    return registry
