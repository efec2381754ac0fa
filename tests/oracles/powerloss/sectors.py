"""Disks as sequences of numbers, one for each sector: equal numbers are equal contents.

A disk of 256 MiB takes 2 MiB so, a write is a copy of a few bytes, and two disks, or parts of
them, are compared without their contents.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SECTOR = 512
NUMBER = 4
"""Bytes of one number."""
_RUN = 128 * SECTOR
_ZEROS = bytes(_RUN)


class Contents:
    """The contents of sectors, each with its number; zeros have 0."""

    def __init__(self) -> None:
        self._contents: list[bytes] = [bytes(SECTOR)]
        self._numbers: dict[bytes, int] = {self._contents[0]: 0}

    def numbers(self, content: bytes) -> bytes:
        """Return the numbers of whole sectors, `NUMBER` bytes each."""
        known, contents = self._numbers, self._contents
        found = array("I")
        for begin in range(0, len(content), _RUN):
            run = content[begin : begin + _RUN]
            if run == _ZEROS:
                found.frombytes(bytes(NUMBER * _RUN // SECTOR))
                continue
            for at in range(0, len(run), SECTOR):
                sector = run[at : at + SECTOR]
                number = known.get(sector)
                if number is None:
                    number = known[sector] = len(contents)
                    contents.append(sector)
                found.append(number)
        return found.tobytes()

    def content(self, numbers: bytes | bytearray) -> bytes:
        """Return the contents that have these numbers."""
        contents = self._contents
        return b"".join([contents[number] for number in array("I", bytes(numbers))])


@dataclass(frozen=True, order=True)
class Extent:
    """A range of sectors."""

    begin: int
    end: int

    @classmethod
    def of_bytes(cls, offset: int, length: int) -> Extent:
        """Return the extent of whole sectors at a place of a disk."""
        assert offset % SECTOR == 0, offset
        return cls(offset // SECTOR, -(-(offset + length) // SECTOR))

    def numbers_in(self, disk: bytes | bytearray) -> bytes | bytearray:
        """Return this part of a disk."""
        return disk[self.begin * NUMBER : self.end * NUMBER]

    def without(self, others: Iterable[Extent]) -> Sequence[Extent]:
        """Return the parts of it that are in none of the others."""
        parts = [self]
        for other in others:
            parts = [
                part
                for range_ in parts
                for part in (
                    Extent(range_.begin, min(range_.end, other.begin)),
                    Extent(max(range_.begin, other.end), range_.end),
                )
                if part.begin < part.end
            ]
        return parts


@dataclass
class Reader:
    """Reads a disk in a certain state, and records what was read."""

    contents: Contents
    disk: bytes | bytearray
    extents: list[Extent] = field(default_factory=list)

    @property
    def sectors(self) -> int:
        """The disk's length."""
        return len(self.disk) // NUMBER

    def read(self, begin: int, count: int) -> bytes:
        """Return the contents of sectors. Raises `NotBootableError` beyond the disk's end."""
        extent = Extent(begin, begin + count)
        if not 0 <= begin < extent.end <= self.sectors:
            raise NotBootableError(f"sectors {begin}+{count} are not on the disk")
        self.extents.append(extent)
        return self.contents.content(extent.numbers_in(self.disk))


class NotBootableError(Exception):
    """Firmware, or what it loads, cannot go any further; the text is why."""
