"""What holdfast does, to watch: `make demo`, `make demo-machine`, `make demo-fleet`."""
