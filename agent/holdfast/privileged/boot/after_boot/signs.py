"""Signs by which a system is recognised after a boot."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.node.directories import file_system_uuid
from holdfast.node.files import read_text
from holdfast.node.machine_files import MachineFiles
from holdfast.privileged.boot.models import SystemSigns

_ENTRY_NONCE = re.compile(r"holdfast\.nonce=([0-9a-f]{32})")


def signs_of(machine: MachineFiles) -> SystemSigns:
    """Return the signs of the running system. Raises `OSError` without /proc."""
    return SystemSigns(
        root_uuid=file_system_uuid(Path("/"), machine),
        machine_id=read_text(machine.path("/etc/machine-id")) or None,
        boot_id=read_text(machine.proc / "sys/kernel/random/boot_id") or "",
    )


def entry_nonces(entries: list[str]) -> list[str]:
    """Return the nonces of the armings that boot loader entries are of."""
    return [nonce for entry in entries for nonce in _ENTRY_NONCE.findall(entry)]
