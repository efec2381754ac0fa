"""Signatures of image descriptors, used where an image is staged and where it is armed."""
