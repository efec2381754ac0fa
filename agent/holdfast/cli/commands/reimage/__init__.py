"""`holdfast reimage`."""
