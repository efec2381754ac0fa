"""Has the next boot write an image to the disk of the root: arm, disarm, and what came of it.

`arming.py` puts the steps in order; boot loaders are behind `loader.py`. Everything written is
flushed (`durable.py`, `freeze.py`) and read back from the disk (`read_back.py`) before it counts.
"""
