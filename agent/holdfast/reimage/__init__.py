"""Re-imaging in place: this machine becomes another image, and its data stay where they are."""
