"""Disks and images with partition tables and systems, and what fetches or boots them."""
