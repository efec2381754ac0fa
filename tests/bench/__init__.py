"""Benchmarks of holdfast beside its peers, run by `make bench`; see docs/benchmarks.md."""
