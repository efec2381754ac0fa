"""Has the next boot write an image to the disk of the root: arm, disarm, and what came of it.

`arming.py` puts the steps in order; `loaders/registry.py` chooses the boot loader. Everything
written is flushed (`disk/file_io.py`, `disk/freeze.py`) and read back from the disk
(`disk/storage.py`) before it counts.
"""
