"""The commands, a folder for each group; what a command prints is in its `views`."""
