"""All boot loaders that are known here, and which of them a machine uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.loaders.boot_next import BootNext
from holdfast.privileged.boot.loaders.grub import DIRECTORIES, Grub
from holdfast.privileged.boot.loaders.kexec import Kexec
from holdfast.privileged.boot.loaders.loader import Loader
from holdfast.privileged.boot.loaders.systemd_boot import SystemdBoot


@dataclass(frozen=True)
class Choice:
    """The loader that would be armed, or why there is none."""

    loader: Loader | None
    reasons: Sequence[str]


def loaders(machine: MachineFiles) -> Sequence[Loader]:
    """Return every one that this machine has, the first choice first. Raises `OSError`.

    To disarm all of them is to disarm whatever was armed.
    """
    found: list[Loader | None] = [
        SystemdBoot.detect(machine),
        Grub.detect(machine),
        BootNext.detect(machine),
        Kexec(machine),
    ]
    return [loader for loader in found if loader is not None]


def choose(machine: MachineFiles, *, allow_kexec: bool) -> Choice:
    """Choose the loader that boots this machine, or its firmware, or else no firmware at all.

    Raises `OSError`.
    """
    candidates = [loader for loader in loaders(machine) if allow_kexec or loader.name != "kexec"]
    fit = next((candidate for candidate in candidates if candidate.unfit() is None), None)
    if fit is not None:
        return Choice(fit, ())
    reasons = [reason for candidate in candidates if (reason := candidate.unfit()) is not None]
    if not any(machine.path(f"{directory}/grub.cfg").exists() for directory in DIRECTORIES):
        reasons.insert(0, _no_grub(machine))
    return Choice(None, reasons)


def _no_grub(machine: MachineFiles) -> str:
    if machine.path("/boot/grub/menu.lst").exists():
        return (
            "This machine boots by /boot/grub/menu.lst, as GRUB 0.97 and the pv-grub of Xen do, "
            "which cannot boot an entry once; replace the root volume from outside "
            "instead."
        )
    return "There is no GRUB 2 here: neither /boot/grub/grub.cfg nor /boot/grub2/grub.cfg."
