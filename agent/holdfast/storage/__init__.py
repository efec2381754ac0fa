"""Directories of state, and files in them: what every capability asks of a file system."""
