"""Hostile and honest clients at once, for a long time: `make soak MINUTES=60`."""
