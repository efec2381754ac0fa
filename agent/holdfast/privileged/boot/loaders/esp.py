"""The EFI system partition, and the partition that extends it: FAT, which the firmware reads."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, position_of, system_position
from holdfast.privileged.boot.disk.gpt import ESP, XBOOTLDR, GptPartition, partition_at
from holdfast.privileged.boot.disk.storage import FAT, Storage

_UDEV_UNIT = 512
"""Bytes; udev counts in these whatever the disk's sectors are."""
_POINTS = ("/efi", "/boot/efi", "/boot")


@dataclass(frozen=True)
class Esp:
    """One that is mounted."""

    point: str
    storage: Storage
    partition: GptPartition

    @property
    def payload(self) -> str:
        """Where on it the imager lies, as the machine calls it."""
        return f"{self.point}/holdfast".replace("//", "/")


def system_partitions(machine: MachineFiles) -> Sequence[Esp]:
    """Return those on the disk of the root, `/efi` first. Raises `OSError`."""
    system = system_position(machine)
    if isinstance(system, str):
        return []
    for point in _POINTS:
        # Where it is mounted on demand, this is the demand.
        with suppress(OSError):
            next(machine.path(point).iterdir(), None)
    found = []
    for mount in machine.mounts():
        if mount.file_system != FAT or mount.root != "/":
            continue
        place = position_of(machine, mount.point)
        if isinstance(place, DiskPosition) and place.disk.name == system.disk.name:
            entry = _entry(machine, place)
            if entry is not None and entry.type in (ESP, XBOOTLDR):
                found.append(Esp(mount.point, Storage(machine, place), entry))
    order = {point: number for number, point in enumerate(_POINTS)}
    found.sort(key=lambda system: order.get(system.point, len(order)))
    return list({system.partition.uuid: system for system in reversed(found)}.values())[::-1]


def _entry(machine: MachineFiles, place: DiskPosition) -> GptPartition | None:
    """Read the table's entry; what udev knows of it where the disk cannot be read."""
    device = machine.sysfs(udev=False).describe(place.disk.name)
    sector_bytes = (device.logical_block_size if device is not None else None) or _UDEV_UNIT
    try:
        return partition_at(machine.dev / place.disk.name, place.start_bytes, sector_bytes)
    except (PermissionError, FileNotFoundError):  # a service may have no devices at all
        known = machine.sysfs().udev_properties(place.partition.name)
    if known.get("ID_PART_ENTRY_SCHEME") != "gpt":
        return None
    try:
        return GptPartition(
            number=int(known["ID_PART_ENTRY_NUMBER"]),
            type=known["ID_PART_ENTRY_TYPE"],
            uuid=known["ID_PART_ENTRY_UUID"],
            start=int(known["ID_PART_ENTRY_OFFSET"]) * _UDEV_UNIT // sector_bytes,
            sectors=int(known["ID_PART_ENTRY_SIZE"]) * _UDEV_UNIT // sector_bytes,
        )
    except (KeyError, ValueError):
        return None


def open_to_others(machine: MachineFiles, esp: Esp) -> str | None:
    """Return why secrets cannot be on it: FAT keeps no modes, and the mount sets one for all."""
    mode = stat.S_IMODE(machine.path(esp.point).stat().st_mode)
    if mode & 0o077 == 0:
        return None
    return (
        f"{esp.point} can be read by everybody, and private keys of this machine would lie there; "
        "mount it with the option umask=0077."
    )
