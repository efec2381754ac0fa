"""Signatures of image descriptors, for whoever stages an image and for whoever arms it."""
