"""`holdfast transfer`."""
