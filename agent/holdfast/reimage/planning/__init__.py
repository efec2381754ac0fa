"""What re-imaging would do, and what is in the way."""
