"""Files that set the same at boot: those of others, and those that holdfast writes."""
