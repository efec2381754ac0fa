"""Caches in memory: files of tmpfs roots saved to the data volume, and put back before a start."""
