"""Reads sizes as a person writes them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?((?P<letter>[kmgtpe])(?P<suffix>ib|b)?|b)?", re.ASCII)
_LONGEST = 64
"""Characters of the longest text that is read as a size."""


def parse_size(text: str) -> int:
    """Read `4096`, `512MiB`, `512M`, `1.5 GiB` (powers of 1024) or `2GB` (powers of 1000).

    Raises `ValueError` with a sentence.
    """
    match = _SIZE.fullmatch(text.strip().lower()) if len(text) <= _LONGEST else None
    if match is None:
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        raise ValueError(f"{shown!r} is not a size; write for example 4096, 512MiB or 1.5GiB")
    letter, suffix = match["letter"] or "", match["suffix"]
    base = 1000 if letter and suffix == "b" else 1024
    multiple = base ** (" kmgtpe".index(letter) if letter else 0)
    number = match["number"]
    return int(float(number) * multiple) if "." in number else int(number) * multiple
