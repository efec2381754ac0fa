"""Other disks that have the same identifiers as the system's disk, or as an image of one.

Boot loaders and kernels find file systems by UUID and label: where two disks have the same, either
of them may be booted or mounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.superblocks import Superblock, read_superblock


@dataclass(frozen=True)
class Identifier:
    """A UUID or a label of a file system that must be on one disk only."""

    kind: str
    """`UUID` or `label`."""
    value: str
    owner: str
    """Whose it is, for people: `partition 2 of the image`."""


def identifiers_of(content: Superblock | None, owner: str) -> Sequence[Identifier]:
    """Return the identifiers of a file system by which it is found at boot."""
    if content is None or content.kind != "file system" or content.uuid is None:
        return []
    return [Identifier("UUID", content.uuid, owner)]


def copies(machine: MachineFiles, target: str, wanted: Iterable[Identifier]) -> Sequence[str]:
    """Return sentences about devices on other disks than `target` that have such an identifier.

    Devices that this process may not read are left to the arming, which has the rights.
    """
    identifiers = list(wanted)
    if not identifiers:
        return []
    clashes = []
    for name, path in _others(machine, target):
        try:
            content = read_superblock(machine.dev / name)
        except OSError:
            continue
        if content is None or content.kind != "file system":
            continue
        for identifier in identifiers:
            value = content.uuid if identifier.kind == "UUID" else content.label
            if value is not None and value.lower() == identifier.value.lower():
                clashes.append(
                    f"{path} has the {identifier.kind} {identifier.value} of {identifier.owner}, "
                    "so that either may be taken for the other at boot; detach its disk, or give "
                    f"it another {identifier.kind} ({_command(content, identifier.kind, path)})."
                )
                break
    return clashes


def _others(machine: MachineFiles, target: str) -> Iterable[tuple[str, str]]:
    """Yield names and paths of disks and partitions that are neither the target nor on it."""
    sysfs = machine.sysfs()
    for disk in sysfs.names():
        device = sysfs.describe(disk)
        if disk == target or device is None or not device.size_bytes:
            continue
        if device.type != "disk" and not (machine.loop_disks and device.type == "loop"):
            continue
        for name in (disk, *sysfs.partitions(disk)):
            if not sysfs.holders(name):
                yield name, f"{machine.dev}/{name}"


def _command(content: Superblock, kind: str, path: str) -> str:
    """Return the command that changes a file system's UUID or label."""
    uuid = kind == "UUID"
    if content.type.startswith("ext"):
        return f"`tune2fs -U random {path}`" if uuid else f"`e2label {path} NAME`"
    if content.type == "xfs":
        return f"`xfs_admin -U generate {path}`" if uuid else f"`xfs_admin -L NAME {path}`"
    if content.type == "btrfs":
        return f"`btrfstune -u {path}`" if uuid else f"`btrfs filesystem label {path} NAME`"
    return "with the tools of its file system"
