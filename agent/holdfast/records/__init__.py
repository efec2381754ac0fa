"""Record files: stored under ids, uploaded by clients, downloaded for other nodes."""
