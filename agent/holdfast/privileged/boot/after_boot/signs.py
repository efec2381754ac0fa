"""Signs by which a system is recognised after a boot."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from holdfast.node.paths.directories import file_system_uuid
from holdfast.node.paths.files import read_int, read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.mounts import mount_of
from holdfast.node.storage.topology import devices_below
from holdfast.privileged.boot.disk.gpt import partition_at
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.models import SystemSigns

_ENTRY_NONCE = re.compile(r"holdfast\.nonce=([0-9a-f]{32})")


def signs_of(machine: MachineFiles) -> SystemSigns:
    """Return the signs of the running system. Raises `OSError` without /proc."""
    return SystemSigns(
        root_uuid=file_system_uuid(Path("/"), machine),
        partition_uuid=_partition_uuid(machine),
        machine_id=read_text(machine.path("/etc/machine-id")) or None,
        boot_id=read_text(machine.proc / "sys/kernel/random/boot_id") or "",
    )


def _partition_uuid(machine: MachineFiles) -> str | None:
    """Return what `PARTUUID=` names of the root's partition; None where there is not just one."""
    mount = mount_of(Path("/"), machine.mounts())
    sysfs = machine.sysfs(udev=False)
    found = [] if mount is None else devices_below(mount, sysfs)
    partitions = [device for device in found if device.type == "partition"]
    disks = [device for device in found if device.type in ("disk", "loop")]
    if len(partitions) != 1 or len(disks) != 1:
        return None
    name, disk = partitions[0].name, disks[0]
    with suppress(OSError):  # it is one sign of several
        node = machine.dev / disk.name
        entry = partition_at(node, sysfs.start_bytes(name), disk.logical_block_size or 512)
        if entry is not None:
            return entry.uuid
        with raw(node) as file:
            signature = int.from_bytes(b"".join(read_raw(file, 440, 4)), "little")
        number = read_int(machine.sys / "class/block" / name / "partition")
        if signature and number:
            return f"{signature:08x}-{number:02x}"
    return None


def entry_nonces(entries: list[str]) -> list[str]:
    """Return the nonces of the armings that boot loader entries are of."""
    return [nonce for entry in entries for nonce in _ENTRY_NONCE.findall(entry)]
