"""Prometheus metrics."""

from holdfast.metrics.registry import Metrics

__all__ = ["Metrics"]
