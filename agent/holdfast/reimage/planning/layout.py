"""The layout of the data on the disks, to be compared before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.topology import describe_root


class DiskIdentity(BaseModel, defer_build=True):
    """What of a disk does not change with a boot: names in /dev do."""

    serial: str | None
    model: str | None
    size_bytes: int | None


class RootLayout(BaseModel, defer_build=True):
    """Where a root lies."""

    root: str
    mount_point: str | None
    file_system: str | None
    size_bytes: int | None
    """Of the file system."""
    kinds: list[str]
    """Of the devices between the file system and its disks, such as `md raid0`."""
    disks: list[DiskIdentity]


def layout_of(roots: Sequence[Path]) -> list[RootLayout]:
    """Inspect all roots. Never raises for one that is missing."""
    sysfs = Sysfs()
    return [_layout_of(root, sysfs) for root in roots]


def differences(before: Sequence[RootLayout], now: Sequence[RootLayout]) -> list[str]:
    """Return sentences on what has changed; none if nothing has."""
    by_root = {root.root: root for root in now}
    differences = []
    for old in before:
        new = by_root.get(old.root)
        if new is None:
            differences.append(f"{old.root} is no root of the new system's settings.")
        elif old.mount_point != new.mount_point:
            where = new.mount_point or "nowhere"
            differences.append(
                f"{old.root} was on what is mounted at {old.mount_point}, now at {where}."
            )
        else:
            differences += _devices(old, new)
    return differences


def _devices(old: RootLayout, new: RootLayout) -> list[str]:
    differences = []
    if (old.file_system, old.size_bytes) != (new.file_system, new.size_bytes):
        differences.append(
            f"{old.root} was {old.file_system} of {old.size_bytes} bytes, and is "
            f"{new.file_system} of {new.size_bytes}."
        )
    if old.disks != new.disks:
        differences.append(f"{old.root} was on {_names(old)}, and is on {_names(new)}.")
    if old.kinds != new.kinds:
        before, after = (", ".join(layout.kinds) or "plain disks" for layout in (old, new))
        differences.append(f"{old.root} was on {before}, and is on {after}.")
    return differences


def _layout_of(root: Path, sysfs: Sysfs) -> RootLayout:
    found = describe_root(root, sysfs=sysfs)
    disks = [device for device in found.devices if not device.lies_on]
    return RootLayout(
        root=found.root,
        mount_point=found.mount_point,
        file_system=found.file_system,
        size_bytes=found.size_bytes,
        kinds=sorted(
            f"{device.type} {device.detail}" if device.detail else device.type
            for device in found.devices
            if device.lies_on
        ),
        disks=sorted(
            (
                DiskIdentity(serial=disk.serial, model=disk.model, size_bytes=disk.size_bytes)
                for disk in disks
            ),
            key=lambda disk: (disk.serial or "", disk.model or "", disk.size_bytes or 0),
        ),
    )


def _names(layout: RootLayout) -> str:
    return ", ".join(disk.serial or disk.model or "a disk" for disk in layout.disks) or "no disk"
