"""What holdfast does, to watch: `make demo` and `make demo-machine`."""
