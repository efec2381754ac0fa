"""The identity of a directory, valid also after a boot of another system."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import superblock_of
from holdfast.node.storage.mounts import mount_of
from holdfast.node.storage.topology import devices_below

_Natural = Field(ge=0, lt=1 << 64)


class DirectoryIdentity(BaseModel, defer_build=True):
    """A directory as it was found once."""

    model_config = ConfigDict(frozen=True)

    uid: int = _Natural
    """Its owner."""
    dev: int = _Natural
    """st_dev, which may be another after a boot."""
    ino: int = _Natural
    file_system_uuid: str | None = None
    """None where it is not known."""

    def same_place(self, other: DirectoryIdentity) -> bool:
        """Whether both are one directory, regardless of its owner."""
        if self.ino != other.ino:
            return False
        if self.file_system_uuid is not None and other.file_system_uuid is not None:
            return self.file_system_uuid == other.file_system_uuid
        return self.dev == other.dev


def identify_directory(directory: int, path: Path, machine: MachineFiles) -> DirectoryIdentity:
    """Identify an open directory; `path` is where the machine has it. Raises `OSError`."""
    status = os.fstat(directory)
    return DirectoryIdentity(
        uid=status.st_uid,
        dev=status.st_dev,
        ino=status.st_ino,
        file_system_uuid=file_system_uuid(path, machine),
    )


def file_system_uuid(path: Path, machine: MachineFiles) -> str | None:
    """Return the UUID of the file system that a path of the machine is on; None for none."""
    real = Path(machine.inside(machine.path(str(path)).resolve()))
    mount = mount_of(real, machine.mounts())
    below = [] if mount is None else devices_below(mount, machine.sysfs(udev=False))
    held = superblock_of(machine, below[0].name) if below else None
    return None if held is None else held.uuid
