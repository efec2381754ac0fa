"""`holdfast manifest`."""
