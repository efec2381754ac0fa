"""What a lifeboat consists of, and the layout of the range of the disk that holds it.

0        header, one line of JSON, a newline, spaces
4096     the imager's journal
69632    the content of the switch sector
1 MiB    the parts that firmware and boot loader read
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.privileged.boot.models import BootMode

ALIGNED = 4096
"""Both ends of a region, and the beginning and the length of each part, are multiples of it."""
HEADER_BYTES = 4096
JOURNAL_AT, JOURNAL_BYTES = 4096, 65536
SWITCH_AT = 69632
PARTS_AT = 1 << 20
MAX_BYTES = 64 << 20
"""The most that a region may have."""
END_BYTES = 1 << 20
"""What stays free at the end of the disk: the image's backup table goes there."""
FORMAT = "holdfast-lifeboat"
_CHUNK = 4 << 20

PartName = Literal["core", "kernel", "initramfs", "table", "backup-table", "esp"]


class LifeboatError(Exception):
    """There can be no lifeboat here; the message is a sentence."""


@dataclass(frozen=True)
class Region:
    """A contiguous range of the target, in bytes from its beginning."""

    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where it ends."""
        return self.offset_bytes + self.length_bytes


@dataclass(frozen=True)
class Part:
    """Something that a boot of the lifeboat reads."""

    name: PartName
    offset_bytes: int
    """From the region's beginning."""
    content: bytes | Path

    @property
    def content_bytes(self) -> int:
        """Size of the content. Raises `OSError`."""
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    @property
    def length_bytes(self) -> int:
        """What it has on the disk: the content, and zeros up to a multiple of `ALIGNED`."""
        return aligned(self.content_bytes)

    def chunks(self) -> Iterator[bytes]:
        """Yield what it has on the disk. Raises `OSError`."""
        content, left = self.content, self.length_bytes
        if isinstance(content, bytes):
            yield content
            left -= len(content)
        else:
            with content.open("rb") as stream:
                while left and (chunk := stream.read(min(_CHUNK, left))):
                    yield chunk
                    left -= len(chunk)
        if left >= ALIGNED:
            raise OSError(5, "it became shorter while it was read", str(content))
        yield bytes(left)


@dataclass(frozen=True)
class Parts:
    """A lifeboat, all but its place."""

    firmware: BootMode
    sector_bytes: int
    """Of the target's logical sectors."""
    switch_lba: int
    """The logical sector that has the firmware boot the lifeboat."""
    switch: bytes
    """What that sector has then; `sector_bytes` bytes."""
    parts: Sequence[Part]

    @property
    def length_bytes(self) -> int:
        """The least that a region for it has to have."""
        return max((part.offset_bytes + part.length_bytes for part in self.parts), default=PARTS_AT)


@dataclass(frozen=True)
class PartRecord:
    """A part as the header has it."""

    name: str
    offset_bytes: int
    length_bytes: int
    sha256: str


def header(
    region: Region, nonce: str, parts: Parts, switch_sha256: str, records: Sequence[PartRecord]
) -> bytes:
    """Return the header of a lifeboat, `HEADER_BYTES` bytes."""
    document = {
        "format": FORMAT,
        "version": 1,
        "nonce": nonce,
        "firmware": parts.firmware,
        "sector_bytes": parts.sector_bytes,
        "length_bytes": region.length_bytes,
        "switch": {"lba": parts.switch_lba, "offset_bytes": SWITCH_AT, "sha256": switch_sha256},
        "journal": {"offset_bytes": JOURNAL_AT, "length_bytes": JOURNAL_BYTES},
        "parts": [vars(record) for record in records],
    }
    return (json.dumps(document, separators=(",", ":")).encode() + b"\n").ljust(HEADER_BYTES)


def header_nonce(content: bytes) -> str | None:
    """Return the nonce in a region's first bytes; None where they are no header of a lifeboat."""
    try:
        document = json.loads(content.partition(b"\n")[0])
        known = (document["format"], document["version"]) == (FORMAT, 1)
        nonce = document["nonce"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return nonce if known and isinstance(nonce, str) else None


def described(content: bytes, nonce: str, region: Region) -> Sequence[PartRecord] | None:
    """Return what a header describes, the switch sector among it; None if it is of another arming.

    All of it is within the region.
    """
    if header_nonce(content) != nonce:
        return None
    document = json.loads(content.partition(b"\n")[0])
    try:
        switch = {"name": "switch", "length_bytes": document["sector_bytes"]} | document["switch"]
        switch.pop("lba")
        found = [PartRecord(**part) for part in (switch, *document["parts"])]
        inside = all(
            0 <= part.offset_bytes <= region.length_bytes - part.length_bytes for part in found
        )
    except (KeyError, TypeError):
        return None
    return found if inside else None


def aligned(length: int) -> int:
    """Round up to a multiple of `ALIGNED`."""
    return -(-length // ALIGNED) * ALIGNED
