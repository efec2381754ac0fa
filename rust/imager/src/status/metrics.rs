//! The status for Prometheus.
