"""The whole disks of a machine: which of them holds its system, and why no other may be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast._engine import refused_in_system
from holdfast.node.models import BlockDevice, Disk
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.mounts import Mount, mount_of
from holdfast.node.storage.superblocks import Superblock, read_content, read_superblock
from holdfast.node.storage.swap import read_swaps
from holdfast.node.storage.topology import devices_below

_MEMBER_OF = {"md": "an md array", "lvm": "an LVM volume group", "luks": "an encrypted container"}


@dataclass(frozen=True)
class DiskPosition:
    """A directory of the machine, on a partition of a whole disk."""

    mount: Mount
    device: BlockDevice
    """What is mounted: the partition, or a logical volume on it."""
    partition: BlockDevice
    disk: BlockDevice
    start_bytes: int
    """Where the partition begins on the disk."""
    group: str | None = None
    """UUID of the volume group of LVM, as LVM prints it, if it is on a logical volume."""


@dataclass(frozen=True)
class Disks:
    """What is known of a machine's disks."""

    all: Sequence[Disk]
    loses: Sequence[str]
    """Sentences: what besides the running system is on its disk."""
    refusals: Sequence[str]
    """Sentences: why the disk of the running system must not be written."""
    unknown: Sequence[str]

    @property
    def target(self) -> Disk | None:
        """The disk of the running system, if it is on one plain partition of one disk."""
        return next((disk for disk in self.all if disk.target), None)


def system_position(machine: MachineFiles) -> DiskPosition | str:
    """Find the disk of the running system, which may be on a logical volume of LVM.

    Returns a sentence where it is not on partitions of one whole disk. Raises `OSError`.
    """
    return _position(machine, "/", volumes=True)


def position_of(machine: MachineFiles, directory: str) -> DiskPosition | str:
    """Find the partition and the disk that hold a directory.

    Returns a sentence where it is not a plain partition of one whole disk. Raises `OSError`.
    """
    return _position(machine, directory, volumes=False)


def _position(  # noqa: PLR0911 - a reason each
    machine: MachineFiles, directory: str, *, volumes: bool
) -> DiskPosition | str:
    mount = mount_of(Path(directory), machine.mounts())
    if mount is None:
        return f"No mount is known that contains {directory}."
    # Not udev's names: what is compared after a reboot must come from the kernel alone.
    sysfs = machine.sysfs(udev=False)
    found = devices_below(mount, sysfs)
    if not found:
        return (
            f"{directory} is on {mount.file_system} ({mount.source}), which is no partition of a "
            "disk of this machine."
        )
    top, group = found[0], None
    if volumes and top.type == "dm":
        group = sysfs.volume_group(top.name)
        # The volume, and those of the same group that it is made of.
        if group is not None:
            found = [device for device in found if sysfs.volume_group(device.name) != group]
        if len({device.name for device in found if device.type == "disk"}) > 1:
            return f"{directory} is on a logical volume on several disks, {top.path}."
        # Of several partitions of one disk it is on each; one is enough to find the disk.
        extra = [device for device in found if device.type == "partition"][1:] if group else []
        found = [device for device in found if device not in extra]
    above = next((device for device in found if device.type in ("dm", "md")), None)
    if above is not None:
        what = {"md": f"an md array ({above.detail})", "dm": f"a mapped device ({above.detail})"}
        return f"{directory} is on {what[above.type]}, {above.path}, not on a plain partition."
    if mount.file_system == "btrfs" and len([device for device in found if not device.lies_on]) > 1:
        return f"{directory} is on a btrfs of several devices, not on one partition."
    if len(found) != 2 or found[0].type != "partition":
        if found[0].type == "loop" and not machine.loop_disks:
            return f"{directory} is on a loop device, {found[0].path}, not on a disk."
        return f"{directory} is on {found[0].path} as a whole, which is not a partition of a disk."
    partition, disk = found
    if disk.type != "disk" and not (machine.loop_disks and disk.type == "loop"):
        return f"{directory} is on a partition of {disk.path}, which is not a disk."
    device = partition if group is None else top
    start = sysfs.start_bytes(partition.name)
    return DiskPosition(mount, device, partition, disk, start, group)


def survey(machine: MachineFiles, roots: Sequence[str], image_bytes: int | None = None) -> Disks:
    """Inspect all disks; `roots` are the directories of state. Raises `OSError` without /proc."""
    sysfs = machine.sysfs()
    mounts = machine.mounts()
    refusals: list[str] = []
    unknown: list[str] = []
    system = system_position(machine)
    boot = position_of(machine, "/boot")
    refusals += dict.fromkeys(holder for holder in (system, boot) if isinstance(holder, str))
    target = system.disk.name if isinstance(system, DiskPosition) else None
    if isinstance(boot, DiskPosition) and target not in (None, boot.disk.name):
        refusals.append(
            f"/boot is on another disk ({boot.disk.path}) than / (/dev/{target}): which of them "
            "the firmware boots from is not known."
        )
    data = _data_disks(machine, roots, mounts, sysfs)
    used = _uses(machine, mounts, sysfs)
    shown: list[Disk] = []
    loses: list[str] = []
    for name in sysfs.names():
        device = sysfs.describe(name)
        if device is None or not _is_disk(device, machine, target):
            continue
        reasons = [f"The root {root} is on it." for root in data.get(name, [])]
        if name == target:
            refusals += [
                f"The root {root} is on {device.path}, the disk that would be written over."
                for root in data.get(name, [])
            ]
            group = system.group if isinstance(system, DiskPosition) else None
            more, lost, dark = _of_target(device, used.get(name, []), sysfs, machine, group)
            refusals += more
            loses += lost
            unknown += dark
            if image_bytes is not None and (device.size_bytes or 0) < image_bytes:
                refusals.append(
                    f"{device.path} has {device.size_bytes} bytes, and the image {image_bytes}."
                )
            if device.read_only:
                refusals.append(f"{device.path} is read-only.")
        else:
            runs = any(use.startswith("/ (") for use in used.get(name, []))
            reasons.append(
                "The system that runs is on it, in a way that cannot be replaced."
                if runs
                else "The system that runs is not on it."
            )
            reasons += _why_not(device, used.get(name, []), sysfs, machine, image_bytes)
        shown.append(
            Disk(
                name=name,
                path=device.path,
                model=device.model,
                serial=device.serial,
                wwid=device.wwid,
                size_bytes=device.size_bytes or 0,
                target=name == target,
                data=name in data,
                excluded=reasons,
            )
        )
    return Disks(shown, loses, refusals, unknown)


def _is_disk(device: BlockDevice, machine: MachineFiles, target: str | None) -> bool:
    if device.name == target:
        return True
    if device.type == "loop":
        return machine.loop_disks and bool(device.size_bytes)
    return (
        device.type == "disk"
        and bool(device.size_bytes)
        and not device.name.startswith(("ram", "zram", "sr", "fd"))
    )


def _data_disks(
    machine: MachineFiles, roots: Sequence[str], mounts: Sequence[Mount], sysfs: Sysfs
) -> Mapping[str, list[str]]:
    """Return the roots on each disk, by the disk's name."""
    found: dict[str, list[str]] = {}
    for root in roots:
        try:
            real = Path(machine.inside(machine.path(root).resolve(strict=True)))
        except (OSError, RuntimeError, ValueError):
            continue  # the caller that arms checks that what it needs is there
        mount = mount_of(real, mounts)
        for device in [] if mount is None else devices_below(mount, sysfs):
            if not device.lies_on:
                found.setdefault(device.name, []).append(root)
    return found


def _uses(machine: MachineFiles, mounts: Sequence[Mount], sysfs: Sysfs) -> Mapping[str, list[str]]:
    """Return clauses about what a disk is in use for, by its name."""
    found: dict[str, list[str]] = {}
    for mount in mounts:
        for device in devices_below(mount, sysfs):
            if not device.lies_on:
                found.setdefault(device.name, []).append(f"{mount.point} ({mount.file_system})")
    for swap in read_swaps(machine.proc):
        name = sysfs.by_path(swap.path)
        while name is not None:
            described = sysfs.describe(name)
            if described is None or not described.lies_on:
                found.setdefault(name, []).append(f"swap ({swap.path})")
                break
            name = described.lies_on[0]
    return {name: list(dict.fromkeys(uses)) for name, uses in found.items()}


def _of_target(
    disk: BlockDevice,
    uses: Sequence[str],
    sysfs: Sysfs,
    machine: MachineFiles,
    group: str | None,
) -> tuple[list[str], list[str], list[str]]:
    """Return refusals, what else is lost, and what cannot be known about the system's disk.

    `group` is the volume group of the running system, which goes with its disk.
    """
    refusals, unknown = [], []
    partitions = sysfs.partitions(disk.name)
    for name in (disk.name, *partitions):
        holders = sysfs.holders(name)
        if holders and not _all_of_group(name, group, sysfs):
            refusals.append(f"{', '.join(holders)} is on {machine.dev}/{name}, of the same disk.")
            continue
        whole = name == disk.name
        try:
            content = read_content(machine.dev / name)
            why = content.refused_as_disk if whole else content.refused_as_partition
            if why is not None and group is not None and not whole:
                places = [machine.dev / partition for partition in partitions]
                why = refused_in_system(machine.dev / name, [group], places)
        except OSError as error:
            unknown.append(f"What is on {machine.dev}/{name} cannot be read: {error.strerror}.")
            continue
        if why is not None:
            refusals.append(f"{why[0].upper()}{why[1:]}." if whole else f"{why}.")
    own = ("/ (", "/boot (", "/boot/", "/efi (")
    loses = [f"{use} is on the same disk and is lost." for use in uses if not use.startswith(own)]
    return refusals, loses, unknown


def _all_of_group(name: str, group: str | None, sysfs: Sysfs) -> bool:
    """Whether all that is on a device, also further up, are logical volumes of a group."""
    return group is not None and all(
        sysfs.volume_group(holder) == group and _all_of_group(holder, group, sysfs)
        for holder in sysfs.holders(name)
    )


def _why_not(
    disk: BlockDevice,
    uses: Sequence[str],
    sysfs: Sysfs,
    machine: MachineFiles,
    image_bytes: int | None,
) -> list[str]:
    reasons = [f"It is in use: {use}." for use in uses]
    if disk.read_only:
        reasons.append("It is read-only.")
    if sysfs.removable(disk.name):
        reasons.append("Its medium can be taken out.")
    if image_bytes is not None and (disk.size_bytes or 0) < image_bytes:
        reasons.append("It is smaller than the image.")
    for name in (disk.name, *sysfs.partitions(disk.name)):
        holders = sysfs.holders(name)
        if holders:
            reasons.append(f"{', '.join(holders)} is on {machine.dev}/{name}.")
            continue
        held = superblock_of(machine, name)
        if held is not None and held.kind == "member":
            reasons.append(f"{machine.dev}/{name} belongs to {_MEMBER_OF[held.type]}.")
        elif held is not None:
            reasons.append(f"There is a file system ({held.type}) on {machine.dev}/{name}.")
    return reasons


def superblock_of(machine: MachineFiles, name: str) -> Superblock | None:
    """Read a device's superblock, or udev's record of it where that may not be read."""
    try:
        return read_superblock(machine.dev / name)
    except OSError:
        known = machine.sysfs().udev_properties(name)
    kind, uuid = known.get("ID_FS_TYPE"), known.get("ID_FS_UUID")
    members = {"linux_raid_member": "md", "LVM2_member": "lvm", "crypto_LUKS": "luks"}
    if kind is None:
        return None
    if kind in members:
        if members[kind] == "md" and uuid is not None:
            digits = uuid.replace("-", "").replace(":", "")
            uuid = ":".join(digits[at : at + 8] for at in range(0, 32, 8))
        return Superblock("member", members[kind], uuid)
    return Superblock("file system", kind, uuid)
