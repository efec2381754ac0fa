"""Disk images: their descriptors, where they are fetched from, and proof that they are whole."""

from __future__ import annotations

from holdfast.reimage.images.library import ImageLibrary

__all__ = ["ImageLibrary"]
