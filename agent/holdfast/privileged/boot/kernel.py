"""The kernel that runs: where its file is, and what a firmware could do with that."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles

_HEAD = 4096
_PE32_PLUS = 0x20B
_SECURITY = 4  # of the data directories: the table of certificates


@dataclass(frozen=True)
class Stub:
    """The header of a kernel's file as a program for EFI ("PE Format", Microsoft)."""

    signed: bool
    """There is a signature; whether anybody trusts it, only the firmware knows."""


def kernel_of(machine: MachineFiles) -> Path:
    """Return the file of the kernel that runs; the first place for one if there is none."""
    release = machine.kernel
    places = [
        machine.path(place)
        for place in (
            f"/boot/vmlinuz-{release}",
            f"/usr/lib/modules/{release}/vmlinuz",
            f"/lib/modules/{release}/vmlinuz",
        )
    ]
    return next((place for place in places if place.is_file()), places[0])


def stub_of(kernel: Path) -> Stub | None:
    """Return a kernel's EFI stub, or None without one. Raises `OSError`."""
    with kernel.open("rb") as stream:
        head = stream.read(_HEAD)
    if head[:2] != b"MZ" or len(head) < _HEAD:
        return None
    at = int.from_bytes(head[0x3C:0x40], "little")
    optional = at + 24
    if head[at : at + 4] != b"PE\0\0" or optional + 152 > len(head):
        return None
    if int.from_bytes(head[optional : optional + 2], "little") != _PE32_PLUS:
        return None
    (directories,) = struct.unpack_from("<I", head, optional + 108)
    size = 0
    if directories > _SECURITY:
        _, size = struct.unpack_from("<II", head, optional + 112 + 8 * _SECURITY)
    return Stub(signed=size > 0)
