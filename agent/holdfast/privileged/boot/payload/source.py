"""Where the imager finds a staged image: file system and array, read from the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.node.models import BlockDevice
from holdfast.node.paths.files import read_int, read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import superblock_of
from holdfast.node.storage.mounts import mount_of
from holdfast.node.storage.topology import devices_below
from holdfast.privileged.boot.models import ImageSource, NetworkImage
from holdfast.privileged.boot.payload.modules import file_system_module, personality_module
from holdfast.privileged.writes import Refused

_READABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
_LEVELS = frozenset({"linear", "raid0", "raid1", "raid10", "raid4", "raid5", "raid6"})


@dataclass(frozen=True)
class Source:
    """The job's `source`, and what the kernel needs for it."""

    job: dict[str, Any]
    disks: Sequence[BlockDevice]
    modules: Sequence[str]


def find_source(machine: MachineFiles, source: ImageSource) -> Source:
    """Find the devices below a staged image. Raises `Refused` where the imager cannot use them."""
    if isinstance(source, NetworkImage):
        return Source({"kind": "network", "url": source.url}, (), ())
    try:
        # It need not be there yet: then it is to be staged where its nearest directory is.
        real = Path(machine.inside(machine.path(source.path).resolve()))
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(f"The staged image {source.path} cannot be inspected: {error}.") from None
    mount = mount_of(real, machine.mounts())
    devices = [] if mount is None else devices_below(mount, machine.sysfs(udev=False))
    if mount is None or not devices:
        raise Refused(f"The staged image {source.path} is on no disk of this machine.")
    if mount.file_system not in _READABLE:
        raise Refused(
            f"The staged image {source.path} is on {mount.file_system}, which the imager cannot "
            f"mount; it can: {', '.join(sorted(_READABLE))}."
        )
    top = devices[0]
    array = _array(machine, top) if top.type == "md" else None
    for below in devices[1:] if array else devices:
        if below.type in ("dm", "md"):
            raise Refused(
                f"The staged image {source.path} is on {below.path} ({below.detail or below.type}"
                "), which the imager cannot put together; fetch the image over the network instead."
            )
    held = superblock_of(machine, top.name)
    if held is None or held.uuid is None:
        raise Refused(f"{top.path}, which holds the staged image, has no UUID.")
    inner = Path(mount.root) / real.relative_to(mount.point)
    modules = [file_system_module(mount.file_system)]
    if array is not None:
        modules += ["md-mod", personality_module(array["level"])]
    return Source(
        {
            "kind": "staged",
            "path": str(inner).lstrip("/"),
            "file_system": mount.file_system,
            "uuid": held.uuid,
            "array": array,
        },
        [device for device in devices if not device.lies_on],
        modules,
    )


def _array(machine: MachineFiles, device: BlockDevice) -> dict[str, Any]:
    level = device.detail or ""
    if level not in _LEVELS:
        raise Refused(
            f"{device.path} is an array of level {level}, which the imager does not know."
        )
    uuid = None
    for member in device.lies_on:
        held = superblock_of(machine, member)
        if held is not None and held.type == "md":
            uuid = held.uuid
    if uuid is None:
        raise Refused(f"The members of {device.path} have no superblock of md, so have no UUID.")
    where = machine.sys / "class/block" / device.name / "md"
    members = read_int(where / "raid_disks")
    if members is None or (read_text(where / "degraded") or "0") != "0":
        raise Refused(f"{device.path} is degraded; the imager only takes whole arrays.")
    return {"uuid": uuid, "level": level, "devices": members}
