"""Re-image a fleet of stateful nodes, zone after zone, as a durable workflow."""

__version__ = "0.1.0"
