"""`holdfast status`."""
