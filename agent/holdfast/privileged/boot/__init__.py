"""Has the next boot write an image to the disk of the root: arm, disarm, and what came of it.

`arming.py` puts the steps in order; the boot loaders are behind `loader.py`. Everything that is
written goes through `durable.py`, and is read back from the disk before it counts.
"""
