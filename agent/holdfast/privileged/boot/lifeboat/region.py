"""Writes a lifeboat into its region, reads it back from the device, and wipes it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.lifeboat.parts import (
    ALIGNED,
    HEADER_BYTES,
    MAX_BYTES,
    PARTS_AT,
    SWITCH_AT,
    LifeboatError,
    PartRecord,
    Parts,
    Region,
    described,
    header,
    header_nonce,
)

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Sink:
    """What a region is written through: an open file that has it from an offset on.

    The disk itself, or a file of the old system whose blocks the region consists of.
    """

    file: int
    offset_bytes: int
    file_system: Path | None = None
    """A directory of the file's file system, which may have the data in its journal first."""

    def write(self, offset: int, chunks: Iterable[bytes]) -> int:
        """Write at an offset of the region; return where it ended. Raises `OSError`."""
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                count = os.pwrite(self.file, view, self.offset_bytes + offset)
                view = view[count:]
                offset += count
        return offset

    def flush(self) -> None:
        """Flush what was written, to its place on the device. Raises `OSError`."""
        os.fsync(self.file)
        if self.file_system is not None:
            settle(self.file_system)


def write(device: Path, sink: Sink, region: Region, parts: Parts, nonce: str) -> bytes:
    """Write a lifeboat, all bytes of the region, flush it and read it back from `device`.

    Returns the header. Nothing boots it before the imager has compared it once more. Raises
    `LifeboatError`, `OSError`.
    """
    _check(region, parts)
    begin = bytes(SWITCH_AT) + parts.switch
    sink.write(0, [begin.ljust(PARTS_AT, b"\0")])
    at, records = PARTS_AT, []
    for part in sorted(parts.parts, key=lambda part: part.offset_bytes):
        sink.write(at, _zeros(part.offset_bytes - at))
        digest = hashlib.sha256()

        def counted(chunks: Iterable[bytes], digest: hashlib._Hash = digest) -> Iterable[bytes]:
            for chunk in chunks:
                digest.update(chunk)
                yield chunk

        at = sink.write(part.offset_bytes, counted(part.chunks()))
        length = at - part.offset_bytes
        records.append(PartRecord(part.name, part.offset_bytes, length, digest.hexdigest()))
    sink.write(at, _zeros(region.length_bytes - at))
    switch_sha256 = hashlib.sha256(parts.switch).hexdigest()
    content = header(region, nonce, parts, switch_sha256, records)
    if len(content) != HEADER_BYTES:
        raise LifeboatError(f"The lifeboat's header would have more than {HEADER_BYTES} bytes.")
    sink.write(0, [content])
    sink.flush()
    check(device, region, content, parts.switch, records)
    return content


def check(
    device: Path, region: Region, content: bytes, switch: bytes, records: Iterable[PartRecord]
) -> None:
    """Raise `OSError` unless the device has this header and all that it describes."""
    with raw(device) as file:
        begin = b"".join(read_raw(file, region.offset_bytes, PARTS_AT))
        expected = content.ljust(SWITCH_AT, b"\0") + switch
        if begin != expected.ljust(PARTS_AT, b"\0"):
            raise _differs(device)
        for record in records:
            digest = hashlib.sha256()
            for chunk in read_raw(
                file, region.offset_bytes + record.offset_bytes, record.length_bytes
            ):
                digest.update(chunk)
            if digest.hexdigest() != record.sha256:
                raise _differs(device)


def verify(device: Path, region: Region, nonce: str) -> None:
    """Raise `OSError` unless a region on the device has the whole lifeboat of an arming."""
    with raw(device) as file:
        content = b"".join(read_raw(file, region.offset_bytes, HEADER_BYTES))
        found = described(content, nonce, region)
        if found is None:
            raise _differs(device)
        for record in found:
            digest = hashlib.sha256()
            start = region.offset_bytes + record.offset_bytes
            for chunk in read_raw(file, start, record.length_bytes):
                digest.update(chunk)
            if digest.hexdigest() != record.sha256:
                raise _differs(device)


def nonce_in(device: Path, region: Region) -> str | None:
    """Return the nonce of the lifeboat that a region has; None if it has none. Raises `OSError`."""
    with raw(device) as file:
        return header_nonce(b"".join(read_raw(file, region.offset_bytes, HEADER_BYTES)))


def wipe(device: Path, sink: Sink, region: Region) -> None:
    """Write zeros over a region, and read them back. Raises `OSError`.

    The header goes last: by that whatever was cut off is found again.
    """
    sink.write(HEADER_BYTES, _zeros(region.length_bytes - HEADER_BYTES))
    sink.flush()
    sink.write(0, _zeros(HEADER_BYTES))
    sink.flush()
    with raw(device) as file:
        for chunk in read_raw(file, region.offset_bytes, region.length_bytes):
            if chunk.count(0) != len(chunk):
                raise _differs(device)


def _check(region: Region, parts: Parts) -> None:
    if region.offset_bytes % ALIGNED or region.length_bytes % ALIGNED:
        raise ValueError(f"{region} is not aligned to {ALIGNED} bytes")
    if region.length_bytes > MAX_BYTES or parts.length_bytes > region.length_bytes:
        raise LifeboatError(
            f"The lifeboat needs {parts.length_bytes} bytes, and has "
            f"{min(region.length_bytes, MAX_BYTES)}."
        )
    if len(parts.switch) != parts.sector_bytes:
        raise ValueError(f"the switch sector has {len(parts.switch)} bytes")


def _zeros(length: int) -> Iterable[bytes]:
    while length > 0:
        yield bytes(min(length, _CHUNK))
        length -= _CHUNK


def _differs(device: Path) -> OSError:
    return OSError(errno.EIO, "the disk does not have what was written", str(device))
