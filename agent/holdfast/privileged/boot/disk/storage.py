"""Where a directory's file system keeps its files on the device, and when they are there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, position_of
from holdfast.privileged.boot.disk import extents, fat
from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.disk.read_back import digest_of_extents
from holdfast.privileged.writes import Refused

FAT = "vfat"


class Storage:
    """The file system that holds a directory of the machine: a plain partition of a disk."""

    def __init__(self, machine: MachineFiles, place: DiskPosition) -> None:
        self._machine = machine
        self.place = place

    @classmethod
    def of(cls, machine: MachineFiles, directory: str) -> Storage:
        """Return the storage of a directory. Raises `Refused` where it is on no plain partition."""
        place = position_of(machine, directory)
        if isinstance(place, str):
            raise Refused(place)
        return cls(machine, place)

    @property
    def kind(self) -> str:
        """Its type, as the kernel calls it."""
        return self.place.mount.file_system

    @property
    def device(self) -> Path:
        """The partition's node."""
        return self._machine.dev / self.place.partition.name

    @property
    def read_only(self) -> bool:
        """Whether the file system is; this mount of it may be in any case, to a service."""
        return "ro" in self.place.mount.super_options.split(",")

    def mode(self, mode: int) -> int | None:
        """Return a mode as this file system can keep it; None where only the mount decides."""
        return None if self.kind == FAT else mode

    def inner(self, path: str) -> str:
        """Return a path of the machine as a boot loader calls it: from this file system's root."""
        below = Path(path).relative_to(self.place.mount.point)
        return str(Path(self.place.mount.root) / below)

    def extents(self, path: Path) -> Sequence[extents.Extent]:
        """Return where a file's bytes are on the device. Raises `OSError`."""
        if self.kind == FAT:
            # FIBMAP would need the right to do anything to any device, and FAT has no FIEMAP. A
            # file's place is in its directory, and there only once the file itself was written.
            os.sync()
            return fat.extents_of(self.device, self.inner(self._machine.inside(path)))
        return extents.extents_of(path)

    def single_place(self, path: Path, length: int) -> int:
        """Return where a file's first `length` bytes are, if in one piece. Raises `OSError`."""
        return extents.single_place(self.extents(path), length, path)

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes as they are on the device. Raises `OSError`."""
        return digest_of_extents(self.device, self.extents(path), path.stat().st_size)

    def check(self, path: Path, content: bytes) -> None:
        """Raise `OSError` if a file is not on the device as it should be."""
        self.check_digest(path, hashlib.sha256(content).hexdigest())

    def check_digest(self, path: Path, sha256: str) -> None:
        """Raise `OSError` if a file on the device has another SHA-256."""
        if self.digest(path) != sha256:
            raise OSError(5, "the disk does not have what was written", str(path))

    def settle(self) -> None:
        """Flush all that was written to its place on the device. Raises `OSError`."""
        if self.kind != FAT:
            settle(self._machine.path(self.place.mount.point))
            return
        # There is no journal to empty, and nothing to freeze.
        os.sync()
        device = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(device)
        finally:
            os.close(device)
