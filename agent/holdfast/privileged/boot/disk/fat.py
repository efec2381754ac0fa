"""Reads a FAT file system from its device, as firmware does: where a file's bytes are.

Past the page cache, and past the kernel's own view of the file system. The format is that of
Microsoft's "FAT: General Overview of On-Disk Format", version 1.03.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.extents import Extent, append
from holdfast.privileged.boot.disk.read_back import raw, read_raw

_ENTRY = 32
_LONG_NAME = 0x0F
_VOLUME, _DIRECTORY = 0x08, 0x10
_DELETED, _END = 0xE5, 0x00
_MAX_TABLE = 64 << 20
_MAX_DIRECTORY = 2 << 20  # 65536 entries, the most there may be
_LESS_IS_FAT12, _LESS_IS_FAT16 = 4085, 65525


@dataclass(frozen=True)
class _Found:
    cluster: int
    size: int
    directory: bool


def extents_of(device: Path, path: str) -> Sequence[Extent]:
    """Return the extents of a file, whole clusters, neighbours joined.

    `path` begins at the file system's root. Raises `OSError`: `ENOENT` where it is not there,
    `EINVAL` for something that is no FAT file system, or a damaged one.
    """
    with raw(device) as file:
        system = _FileSystem(file, str(device))
        found = system.find(path)
        return [] if found.size == 0 else system.extents(found.cluster)


def _damaged(device: str, why: str) -> OSError:
    return OSError(errno.EINVAL, f"its FAT file system {why}", device)


class _FileSystem:
    def __init__(self, file: int, device: str) -> None:
        self._file, self._device = file, device
        sector = self._read(0, 512)
        size, per_cluster, reserved, tables, root_entries, total = struct.unpack_from(
            "<HBHBHH", sector, 11
        )
        table = int.from_bytes(sector[22:24], "little")
        total = total or int.from_bytes(sector[32:36], "little")
        large = table == 0
        table = table or int.from_bytes(sector[36:40], "little")
        if (
            sector[510:] != b"\x55\xaa"
            or size not in (512, 1024, 2048, 4096)
            or per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128)
            or not (reserved and tables and table)
        ):
            raise _damaged(device, "cannot be recognised")
        self._cluster_bytes = size * per_cluster
        root_at = (reserved + tables * table) * size
        self._root_bytes = root_entries * _ENTRY
        root_sectors = -(-self._root_bytes // size)
        self._data_at = root_at + root_sectors * size
        clusters = (total * size - self._data_at) // self._cluster_bytes
        self._bits = 12 if clusters < _LESS_IS_FAT12 else 16 if clusters < _LESS_IS_FAT16 else 32
        if large != (self._bits == 32):
            raise _damaged(device, "contradicts itself")
        self._clusters = clusters + 2
        self._root_at = root_at
        self._root_cluster = int.from_bytes(sector[44:48], "little") if large else 0
        if table * size > _MAX_TABLE:
            raise _damaged(device, f"has a table of more than {_MAX_TABLE} bytes")
        self._table = self._read(reserved * size, table * size)

    def find(self, path: str) -> _Found:
        """Walk to a file."""
        found = _Found(self._root_cluster, 0, directory=True)
        for name in path.strip("/").split("/"):
            if not found.directory:
                raise OSError(errno.ENOTDIR, "is no directory on the disk", path)
            content = self._directory(found.cluster)
            entries = dict(reversed(list(_entries(content))))
            if name.casefold() not in entries:
                raise OSError(errno.ENOENT, "is not on the disk", path)
            found = entries[name.casefold()]
        return found

    def extents(self, cluster: int) -> Sequence[Extent]:
        """Follow a chain of clusters."""
        found: list[Extent] = []
        step = self._cluster_bytes
        for number, link in enumerate(self._chain(cluster)):
            append(found, Extent(number * step, self._data_at + (link - 2) * step, step))
        return found

    def _chain(self, cluster: int) -> Iterator[int]:
        seen = 0
        while 2 <= cluster < self._clusters:
            yield cluster
            seen += 1
            if seen > self._clusters:
                raise _damaged(self._device, "has a chain of clusters without an end")
            cluster = self._next(cluster)
        # What stands at the end of a chain: 0xfff8 or above, of as many bits.
        if cluster & 0xFF8 != 0xFF8:
            raise _damaged(self._device, "has a chain of clusters that is broken")

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            at = cluster * 3 // 2
            pair = int.from_bytes(self._table[at : at + 2], "little")
            return pair >> 4 if cluster % 2 else pair & 0xFFF
        width = self._bits // 8
        at = cluster * width
        return int.from_bytes(self._table[at : at + width], "little") & 0x0FFFFFFF

    def _directory(self, cluster: int) -> bytes:
        if cluster == 0:
            return self._read(self._root_at, self._root_bytes)
        parts = b""
        for extent in self.extents(cluster):
            if len(parts) + extent.length > _MAX_DIRECTORY:
                raise _damaged(self._device, "has a directory that is too large")
            parts += self._read(extent.place, extent.length)
        return parts

    def _read(self, offset: int, length: int) -> bytes:
        return b"".join(read_raw(self._file, offset, length))


def _entries(content: bytes) -> Iterator[tuple[str, _Found]]:
    """Yield all files and directories by their names, long and short, folded."""
    long: list[bytes] = []
    for at in range(0, len(content) - _ENTRY + 1, _ENTRY):
        entry = content[at : at + _ENTRY]
        attributes = entry[11]
        if entry[0] == _END:
            return
        if entry[0] == _DELETED:
            long = []
        elif attributes & 0x3F == _LONG_NAME:
            long.insert(0, entry[1:11] + entry[14:26] + entry[28:32])
        elif attributes & _VOLUME:
            long = []
        else:
            found = _Found(
                int.from_bytes(entry[26:28] + entry[20:22], "little"),
                int.from_bytes(entry[28:32], "little"),
                bool(attributes & _DIRECTORY),
            )
            name, extension = entry[:8].rstrip(), entry[8:11].rstrip()
            short = (name + (b"." + extension if extension else b"")).decode("cp437")
            yield short.casefold(), found
            if long:
                text = b"".join(long).decode("utf-16-le", "replace")
                yield text.partition("\0")[0].casefold(), found
            long = []
