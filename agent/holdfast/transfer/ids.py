"""Ids of offers: ULIDs for people, the same number in hexadecimal on the wire."""

from __future__ import annotations

from holdfast.operations.ids import decode, encode

_BITS = 128


def to_wire(offer_id: str) -> str:
    """Return 32 hexadecimal digits. Raises `ValueError` if it is not a ULID."""
    return f"{decode(offer_id):032x}"


def from_wire(text: str) -> str:
    """Return the ULID. Raises `ValueError` if it is not a number of 128 bits in hexadecimal."""
    value = int(text, 16)
    if not 0 <= value < 1 << _BITS:
        raise ValueError(f"{text!r} is not a number of {_BITS} bits")
    return encode(value)
