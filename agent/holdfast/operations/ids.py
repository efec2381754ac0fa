"""Sortable identifiers: ULIDs (48 bits of milliseconds, 80 random bits, Crockford base 32)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
LENGTH = 26
AMBIGUOUS_SHOWN = 5
"""Candidates that are named where the beginning of an id is that of several."""


class UlidFactory:
    """Makes ULIDs that increase strictly within this factory, also when the clock steps back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> str:
        """Return a new id of 26 characters."""
        value = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            self._last = value = value if value > self._last else self._last + 1
        return encode(value)

    def follow(self, known: str) -> None:
        """Make ids from now on sort after `known`, whatever the clock shows.

        Raises `ValueError` if that is no ULID.
        """
        value = decode(known)
        with self._lock:
            self._last = max(self._last, value)


def ambiguous(noun: str, beginning: str, ids: Sequence[str]) -> str:
    """Return a message that several ids begin alike, and which."""
    shown = ", ".join(ids[:AMBIGUOUS_SHOWN])
    more = " and more" if len(ids) > AMBIGUOUS_SHOWN else ""
    return f"Several {noun} have ids that begin with {beginning}: {shown}{more}; write more of one."


def encode(value: int) -> str:
    """Write a 128-bit number as 26 characters of Crockford base 32."""
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def decode(text: str) -> int:
    """Read what `encode` wrote. Raises `ValueError` if it did not."""
    if len(text) != LENGTH or text[0] > "7":
        raise ValueError(f"{text!r} is not a ULID")
    value = 0
    for character in text:
        value = value << 5 | _ALPHABET.index(character)
    return value


def seconds_of(text: str) -> float:
    """Return the Unix time that a ULID is of. Raises `ValueError` if it is none."""
    return (decode(text) >> _RANDOM_BITS) / 1000


new_id = UlidFactory()
