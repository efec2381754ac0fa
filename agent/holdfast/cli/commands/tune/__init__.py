"""`holdfast tune`."""
