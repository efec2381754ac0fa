"""`holdfast image`."""
