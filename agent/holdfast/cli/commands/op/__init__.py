"""`holdfast op`."""
