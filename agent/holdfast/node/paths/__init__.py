"""Where files of a machine are, and that a path leads where it should."""
