"""Record files: stored under ids, brought by clients, taken to other nodes."""
