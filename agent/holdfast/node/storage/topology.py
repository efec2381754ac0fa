"""From a root down to its disks: mount, then device-mapper, md, partitions, then the disks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.models import BlockDevice, RootTopology
from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.mounts import Mount, machine_options, mount_of, read_mounts
from holdfast.node.storage.volumes import missing


def describe_root(root: Path, *, proc: Path = Path("/proc"), sysfs: Sysfs) -> RootTopology:
    """Return the location of a root. Never raises for one that is missing: `note` reports that."""
    shown = _shown(str(root))
    answer = RootTopology(
        root=shown,
        exists=False,
        mount_point=None,
        source=None,
        file_system=None,
        options=None,
        size_bytes=None,
        available_bytes=None,
        devices=[],
        note=None,
    )
    try:
        real = root.resolve(strict=True)
        space = os.statvfs(real)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its symbolic links make a loop"
        answer.note = f"{shown} cannot be inspected: {reason}."
        return answer
    if (volume := missing(root)) is not None:
        answer.note = f"{shown} {volume}."
        return answer
    answer.exists = True
    answer.size_bytes = space.f_frsize * space.f_blocks
    answer.available_bytes = space.f_frsize * space.f_bavail
    try:
        mount = mount_of(real, read_mounts(proc))
    except OSError as error:
        answer.note = f"The mounts of this system cannot be read: {error.strerror}."
        return answer
    if mount is None:
        answer.note = f"No mount is known that {shown} is in."
        return answer
    answer.mount_point = _shown(mount.point)
    answer.source = _shown(mount.source)
    answer.file_system = mount.file_system
    answer.options = _shown(machine_options(mount, proc))
    answer.devices = devices_below(mount, sysfs)
    if not answer.devices:
        answer.note = _why_no_device(mount)
    return answer


def devices_below(mount: Mount, sysfs: Sysfs) -> list[BlockDevice]:
    """Return the devices below a mount, from the mounted one down to the disks."""
    found: dict[str, BlockDevice] = {}
    queue = list(_mounted_devices(mount, sysfs))
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        device = sysfs.describe(name)
        if device is None:
            continue
        found[name] = device
        queue += device.lies_on
    return list(found.values())


def _mounted_devices(mount: Mount, sysfs: Sysfs) -> Sequence[str]:
    name = sysfs.by_number(mount.number)
    if name is not None:
        return [name]
    # Some file systems have a number of their own, and name their device as the source.
    name = sysfs.by_path(mount.source)
    if name is None:
        return []
    return sysfs.btrfs_members(name) if mount.file_system == "btrfs" else [name]


def _why_no_device(mount: Mount) -> str:
    source = _shown(mount.source)
    if mount.file_system in ("overlay", "tmpfs", "ramfs", "9p", "virtiofs", "zfs", "fuse"):
        return f"A {mount.file_system} file system is on no block device that is known here."
    if mount.file_system.startswith(("nfs", "cifs", "ceph", "fuse.")):
        return f"{source} is a {mount.file_system} file system and not on a disk of this machine."
    return f"The device {source} ({mount.number}) is not in /sys, as in some containers."


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
