"""The firmware's own choice of what to boot once: BootNext (UEFI Specification 2.10, 3.3).

The kernel is a program for EFI by itself, and fetches its initramfs from the partition that it was
started from (Documentation/admin-guide/efi-stub.rst).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.gpt import ESP, GptPartition
from holdfast.privileged.boot.kernel import kernel_of, stub_of
from holdfast.privileged.boot.loaders.cmdline import kernel_line
from holdfast.privileged.boot.loaders.efi_variables import GLOBAL, EfiVariables, efi_text
from holdfast.privileged.boot.loaders.esp import Esp, open_to_others, system_partitions
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Armed, Findings, RebootVerb
from holdfast.privileged.boot.models import DisarmReport, FileReport
from holdfast.privileged.writes import Refused

TITLE = "holdfast: write image"
_NEXT = "BootNext"
_KERNEL, _INITRAMFS = "\\holdfast\\vmlinuz", "\\holdfast\\initramfs.img"
_ACTIVE = 1
_MAX_NUMBER = 0xFFFF


@dataclass(frozen=True)
class LoadOption:
    """An entry of the firmware's menu (EFI_LOAD_OPTION)."""

    title: str
    path: bytes
    """A device path."""
    arguments: str

    def encoded(self) -> bytes:
        """Return it as the variable's value."""
        head = struct.pack("<IH", _ACTIVE, len(self.path))
        return head + efi_text(self.title) + self.path + efi_text(self.arguments)

    @classmethod
    def parsed(cls, value: bytes) -> LoadOption | None:
        """Read a variable's value; None for one that makes no sense, or has no text."""
        if len(value) < 6:
            return None
        length = int.from_bytes(value[4:6], "little")
        end = next((at for at in range(6, len(value) - 1, 2) if value[at : at + 2] == b"\0\0"), -1)
        if end < 0 or end + 2 + length > len(value):
            return None
        rest = value[end + 2 + length :]
        return cls(
            title=value[6:end].decode("utf-16-le", "replace"),
            path=value[end + 2 : end + 2 + length],
            arguments=rest.decode("utf-16-le", "replace").rstrip("\0"),
        )


def device_path(partition: GptPartition, file: str) -> bytes:
    """Return the device path of a file on a partition, as firmware finds it on any disk."""
    disk = struct.pack("<BBHIQQ", 4, 1, 42, partition.number, partition.start, partition.sectors)
    disk += uuid.UUID(partition.uuid).bytes_le + bytes((2, 2))  # a GPT, and its signature a GUID
    name = efi_text(file)
    return disk + struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\x00"


class BootNext:
    """The firmware of a machine that boots with EFI, and its system partition."""

    name = "efi-bootnext"

    def __init__(self, machine: MachineFiles, esp: Esp | None) -> None:
        self._machine = machine
        self._esp = esp
        self._variables = EfiVariables(machine)

    @classmethod
    def detect(cls, machine: MachineFiles) -> BootNext | None:
        """Return it on a machine that boots with EFI. Raises `OSError`."""
        if not machine.boots_with_efi:
            return None
        found = [
            partition for partition in system_partitions(machine) if partition.partition.type == ESP
        ]
        return cls(machine, found[0] if found else None)

    @property
    def payload(self) -> str:
        """On the system partition."""
        return PAYLOAD if self._esp is None else self._esp.payload

    @property
    def changes(self) -> Sequence[str]:
        """What arming writes for it, in that order."""
        return ["Boot#### (EFI variable)", f"{_NEXT} (EFI variable)"]

    def unfit(self) -> str | None:
        """Return why it can never be used on this machine, or None."""
        if not self._variables.usable:
            return "The firmware's variables cannot be seen; mount efivarfs."
        if self._esp is None:
            return (
                "No EFI system partition on the disk of the root is mounted at /efi, /boot/efi or "
                "/boot, so the firmware cannot boot the imager."
            )
        return None

    def examine(self) -> Findings:
        """Check whether it can be used; writes nothing."""
        found = Findings()
        if (unfit := self.unfit()) is not None or self._esp is None:
            found.refusals.append(unfit or "")
            return found
        if self._esp.storage.read_only:
            found.refusals.append(f"{self._esp.point} is mounted read-only.")
        kernel = self._machine.inside(kernel_of(self._machine))
        try:
            if (reason := open_to_others(self._machine, self._esp)) is not None:
                found.refusals.append(reason)
            stub = stub_of(self._machine.path(kernel))
        except FileNotFoundError:
            return found  # reported where the kernel is searched for
        except OSError as error:
            found.unknown.append(f"{error.filename} cannot be inspected: {error.strerror}.")
            return found
        if stub is None:
            found.refusals.append(
                f"{kernel} is no program for EFI (CONFIG_EFI_STUB), so the firmware cannot start "
                "it."
            )
        elif self._variables.secure_boot:
            if not stub.signed:
                found.refusals.append(
                    f"Secure Boot is on, and {kernel} has no signature, so the firmware would not "
                    "start it."
                )
            found.notes.append(
                "Secure Boot is on: unless the firmware itself trusts the kernel's signature, "
                "not only shim, it boots this system again."
            )
        if self._variables.read(_NEXT, GLOBAL) is not None:
            found.refusals.append(
                "The firmware has a next boot set already; reboot, or clear it with "
                "`efibootmgr --delete-bootnext`."
            )
        if self._ours():
            found.refusals.append(
                "The firmware still has an entry of an earlier arming; disarm first."
            )
        return found

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the kernel's arguments. Raises `Refused`."""
        try:
            return kernel_line([f"initrd={_INITRAMFS}", *words])
        except ValueError as error:
            raise Refused(f"The kernel's command line cannot be taken over: {error}.") from None

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Make an entry of the firmware's, then have it booted next."""
        if self._esp is None:
            raise Refused("No EFI system partition is mounted.")
        option = LoadOption(TITLE, device_path(self._esp.partition, _KERNEL), entry)
        used = set(self._variables.boot_numbers())
        number = next(
            (candidate for candidate in range(_MAX_NUMBER) if candidate not in used), None
        )
        if number is None:
            raise Refused("The firmware's menu is full.")
        self._variables.write(f"Boot{number:04X}", GLOBAL, option.encoded())
        self._variables.write(_NEXT, GLOBAL, struct.pack("<H", number))
        return []

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Unknown: the firmware cannot be asked. The file system was read as it does."""
        return None

    def armed(self) -> Armed:
        """Check what it would boot."""
        ours = self._ours()
        if not ours:
            return Armed(entry=None, next=False)
        number, option = next(iter(ours.items()))
        following = self._variables.read(_NEXT, GLOBAL) == struct.pack("<H", number)
        return Armed(entry=option.arguments, next=following)

    def prepare_reboot(self) -> RebootVerb:
        """There is nothing to prepare."""
        return "reboot"

    def disarm(self) -> DisarmReport:
        """Delete the choice, if it is ours, and the entry."""
        removed = []
        for number in self._ours():
            if self._variables.read(_NEXT, GLOBAL) == struct.pack("<H", number):
                self._variables.delete(_NEXT, GLOBAL)
                removed.append(f"{_NEXT} (EFI variable)")
            self._variables.delete(f"Boot{number:04X}", GLOBAL)
            removed.append(f"Boot{number:04X} (EFI variable)")
        return DisarmReport(restored=[], edited=[], removed=removed)

    def _ours(self) -> dict[int, LoadOption]:
        found = {}
        for number in self._variables.boot_numbers():
            value = self._variables.read(f"Boot{number:04X}", GLOBAL)
            option = None if value is None else LoadOption.parsed(value)
            if option is not None and option.title == TITLE and efi_text(_KERNEL) in option.path:
                found[number] = option
        return found
