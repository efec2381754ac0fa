"""The UEFI that machines of these tests have: OVMF, with Secure Boot and without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Firmware:
    """UEFI of a machine."""

    code: Path
    variables: Path
    """Of a machine that is new."""
    machine: str = "q35"
    """QEMU's options for a machine that can run it."""
    options: tuple[str, ...] = ()


_DIRECTORY = Path("/usr/share/OVMF")
OVMF = Firmware(_DIRECTORY / "OVMF_CODE_4M.fd", _DIRECTORY / "OVMF_VARS_4M.fd")
SECURE_OVMF = Firmware(
    _DIRECTORY / "OVMF_CODE_4M.secboot.fd",
    _DIRECTORY / "OVMF_VARS_4M.ms.fd",
    # Only the firmware's own code may write to its variables.
    machine="q35,smm=on",
    options=("-global", "driver=cfi.pflash01,property=secure,value=on"),
)
"""Secure Boot is on, with the keys that machines are sold with."""
