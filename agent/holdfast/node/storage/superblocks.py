"""What is on a block device, by the magic numbers of its first and last bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast._engine import probe_device

_MEMBERS = {"linux_raid_member": "md", "LVM2_member": "lvm", "crypto_LUKS": "luks"}


@dataclass(frozen=True)
class Superblock:
    """What a device holds."""

    kind: Literal["file system", "member"]
    """A member belongs to an array, a volume group or a container of encrypted data."""
    type: str
    """`ext2`, `ext4`, `xfs`, `btrfs`; of members `md`, `lvm`, `luks`."""
    uuid: str | None
    """As udev and GRUB write it; that of the array for a member of md, with colons."""
    label: str | None = None
    """Of a file system."""


@dataclass(frozen=True)
class DeviceContent:
    """All that is on a device."""

    superblock: Superblock | None
    refused_as_disk: str | None
    """A clause: why the system's disk must not be written if this is the whole of it."""
    refused_as_partition: str | None
    """A clause: why the system's disk must not be written if this is a partition of it."""


def read_superblock(device: Path) -> Superblock | None:
    """Return what is on a device, None for nothing known. Raises `OSError`."""
    return read_content(device).superblock


def read_content(device: Path) -> DeviceContent:
    """Return all that is on a device. Raises `OSError`, for want of rights."""
    report = json.loads(probe_device(device))
    return DeviceContent(
        superblock=_first(report["signatures"]),
        refused_as_disk=report["refused_as_disk"],
        refused_as_partition=report["refused_as_partition"],
    )


def _first(signatures: Sequence[dict[str, Any]]) -> Superblock | None:
    """Return the first signature that is a member or a file system; members come first."""
    for signature in signatures:
        if signature["type"] in _MEMBERS:
            kind = _MEMBERS[signature["type"]]
            return Superblock("member", kind, signature["uuid"] if kind == "md" else None)
        if signature["file_system"]:
            return Superblock(
                "file system", signature["type"], signature["uuid"], signature["label"]
            )
    return None
