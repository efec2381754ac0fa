"""The new root is tried on this machine before anything is written.

`image_trial.py` chooses what is tried, `worker.py` has the imager's program try it in a process of
its own, `features.py` compares features with the kernel where nothing can be mounted.
"""
