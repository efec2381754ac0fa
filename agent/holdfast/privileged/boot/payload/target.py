"""Pins the disk that is written: everything by which the imager recognises it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.models import Target

_HEAD = 1 << 20


def pin(machine: MachineFiles, system: DiskPosition) -> Target:
    """Read the disk's identity and its first bytes. Raises `OSError`."""
    disk = system.disk
    # Only what does not change as long as the system runs: not the beginning of a file system.
    sysfs = machine.sysfs(udev=False)
    starts = [sysfs.start_bytes(name) for name in sysfs.partitions(disk.name)]
    head = min([_HEAD, *starts])
    with raw(Path(machine.dev / disk.name)) as file:
        digest = hashlib.sha256(b"".join(read_raw(file, 0, head))).hexdigest()
    return Target(
        path=disk.path,
        serial=disk.serial,
        model=disk.model,
        wwid=disk.wwid,
        size_bytes=disk.size_bytes or 0,
        head_bytes=head,
        head_sha256=digest,
        volume_groups=[] if system.group is None else [system.group],
    )
