"""`holdfast memory`."""
