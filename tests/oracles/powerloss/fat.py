"""Reads a FAT file system as firmware does (Microsoft's "FAT: General Overview", 2000)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.oracles.powerloss.sectors import SECTOR, NotBootableError

_DIRECTORY, _LABEL, _LONG = 0x10, 0x08, 0x0F
_ENTRY_BYTES = 32
_MOST_CLUSTERS = 1 << 20


@dataclass(frozen=True)
class _Entry:
    name: str
    directory: bool
    cluster: int
    length: int


class Fat:
    """A file system whose bytes `read(offset, length)` returns."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        boot = read(0, SECTOR)
        if boot[510:] != b"\x55\xaa":
            raise NotBootableError("the system partition has no boot sector")
        sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", boot, 11)
        root_entries, sectors16 = struct.unpack_from("<HH", boot, 17)
        (fat16,) = struct.unpack_from("<H", boot, 22)
        (sectors32,) = struct.unpack_from("<I", boot, 32)
        (fat32, _, _, root) = struct.unpack_from("<IHHI", boot, 36)
        if sector not in {512, 1024, 2048, 4096} or not per_cluster or not fats:
            raise NotBootableError("the system partition has no FAT file system")
        fat_sectors = fat16 or fat32
        root_bytes = root_entries * _ENTRY_BYTES
        root_at = (reserved + fats * fat_sectors) * sector
        self._data_at = root_at + -(-root_bytes // sector) * sector
        self._cluster_bytes = per_cluster * sector
        clusters = ((sectors16 or sectors32) * sector - self._data_at) // self._cluster_bytes
        self._bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
        if clusters > _MOST_CLUSTERS:
            raise NotBootableError("the system partition is too large")
        self._fat = read(reserved * sector, fat_sectors * sector)
        self._root: Callable[[], bytes] = (
            (lambda: self._chain(root)) if self._bits == 32 else (lambda: read(root_at, root_bytes))
        )

    def file(self, path: str) -> bytes:
        """Return a file's content. Raises `NotBootableError` if there is none, or it is damaged."""
        *directories, name = [part for part in path.replace("\\", "/").split("/") if part]
        listed = self._root()
        for directory in directories:
            listed = self._chain(self._find(listed, directory, path, directory=True).cluster)
        entry = self._find(listed, name, path, directory=False)
        content = self._chain(entry.cluster) if entry.length else b""
        if len(content) < entry.length:
            raise NotBootableError(f"{path} is shorter than its length")
        return content[: entry.length]

    def _find(self, listed: bytes, name: str, path: str, *, directory: bool) -> _Entry:
        for entry in _entries(listed):
            if entry.name.upper() == name.upper() and entry.directory == directory:
                return entry
        raise NotBootableError(f"the system partition has no {path}")

    def _chain(self, cluster: int) -> bytes:
        parts: list[bytes] = []
        # Adjacent clusters are read at once.
        for begin, count in self._runs(cluster):
            at = self._data_at + (begin - 2) * self._cluster_bytes
            parts.append(self._read(at, count * self._cluster_bytes))
        return b"".join(parts)

    def _runs(self, cluster: int) -> Sequence[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        last = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self._bits]
        for _ in range(_MOST_CLUSTERS):
            if cluster >= last:
                return runs
            if cluster < 2:
                break
            if runs and sum(runs[-1]) == cluster:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((cluster, 1))
            cluster = self._next(cluster)
        raise NotBootableError("a chain of clusters has no end")

    def _next(self, cluster: int) -> int:
        try:
            if self._bits == 12:
                (pair,) = struct.unpack_from("<H", self._fat, cluster * 3 // 2)
                return int(pair >> 4 if cluster & 1 else pair & 0xFFF)
            if self._bits == 16:
                return int(struct.unpack_from("<H", self._fat, cluster * 2)[0])
            return int(struct.unpack_from("<I", self._fat, cluster * 4)[0] & 0x0FFFFFFF)
        except struct.error:
            raise NotBootableError("a cluster is not in the table") from None


def _entries(listed: bytes) -> Iterator[_Entry]:
    long: list[str] = []
    for at in range(0, len(listed), _ENTRY_BYTES):
        entry = listed[at : at + _ENTRY_BYTES]
        if entry[0] == 0:
            return
        attributes = entry[11]
        if entry[0] == 0xE5:
            long = []
        elif attributes & 0x3F == _LONG:
            part = entry[1:11] + entry[14:26] + entry[28:32]
            long.insert(0, part.decode("utf-16-le", "replace").split("\0")[0])
        elif attributes & _LABEL:
            long = []
        else:
            short = entry[:8].decode("latin-1").rstrip()
            extension = entry[8:11].decode("latin-1").rstrip()
            name = "".join(long) or (f"{short}.{extension}" if extension else short)
            high, low, length = struct.unpack_from("<H4xHI", entry, 20)
            yield _Entry(name, bool(attributes & _DIRECTORY), high << 16 | low, length)
            long = []
