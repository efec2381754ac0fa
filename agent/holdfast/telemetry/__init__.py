"""Spans of requests and operations, for a collector of OpenTelemetry; off by default."""
