"""`holdfast node`."""
