"""Power cuts of emulated machines while they become another image: `python -m tests.vm.cuts`."""
