"""systemd-boot: an entry of the Boot Loader Specification, booted once by a variable.

https://uapi-group.org/specifications/specs/boot_loader_specification and
https://systemd.io/BOOT_LOADER_INTERFACE
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.file_io import read_plain, write_file
from holdfast.privileged.boot.loaders.cmdline import kernel_line
from holdfast.privileged.boot.loaders.efi_variables import LOADER, EfiVariables, efi_text
from holdfast.privileged.boot.loaders.esp import Esp, open_to_others, system_partitions
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Armed, Findings, RebootVerb
from holdfast.privileged.boot.models import DisarmReport, FileReport
from holdfast.privileged.writes import Refused
from holdfast.storage.atomic_files import clear_partial, flush_directory

ENTRY = "holdfast-imager.conf"
_ONE_SHOT = "LoaderEntryOneShot"
_MAX_ENTRY = 1 << 20
_SORTS_BY_KEY = 250  # systemd 250: entries with a sort-key come before those without


class SystemdBoot:
    """The systemd-boot that started this machine, from one of its system partitions."""

    name = "systemd-boot"

    def __init__(self, machine: MachineFiles, esp: Esp | None) -> None:
        self._machine = machine
        self._esp = esp
        self._variables = EfiVariables(machine)

    @classmethod
    def detect(cls, machine: MachineFiles) -> SystemdBoot | None:
        """Return it if it booted this machine, else None. Raises `OSError`."""
        variables = EfiVariables(machine)
        if not (variables.text("LoaderInfo", LOADER) or "").startswith("systemd-boot "):
            return None
        wanted = (variables.text("LoaderDevicePartUUID", LOADER) or "").lower()
        found = system_partitions(machine)
        return cls(
            machine, next((system for system in found if system.partition.uuid == wanted), None)
        )

    @property
    def payload(self) -> str:
        """On the partition that it was started from, where it reads entries in any case."""
        return PAYLOAD if self._esp is None else self._esp.payload

    def unfit(self) -> str | None:
        """None: where it booted the machine, nothing else will do."""
        return None

    def examine(self) -> Findings:
        """Check whether it can be used; writes nothing."""
        found = Findings()
        if self._esp is None:
            found.refusals.append(
                "The partition that systemd-boot was started from is not mounted, or not on the "
                "disk of the root; mount it at /efi or /boot/efi."
            )
            return found
        if self._variables.secure_boot:
            found.refusals.append(
                "Secure Boot is on, under which only GRUB is known to boot the imager; turn it off."
            )
        if self._esp.storage.read_only:
            found.refusals.append(f"{self._esp.point} is mounted read-only.")
        try:
            if (reason := open_to_others(self._machine, self._esp)) is not None:
                found.refusals.append(reason)
            self._examine_entries(found, self._esp)
        except OSError as error:
            found.unknown.append(f"{error.filename} cannot be inspected: {error.strerror}.")
        if self._variables.read(_ONE_SHOT, LOADER) is not None:
            found.refusals.append(
                "systemd-boot has a next boot set already; reboot, or clear it with "
                '`bootctl set-oneshot ""`.'
            )
        timeouts = [
            self._variables.text(f"LoaderConfigTimeout{suffix}", LOADER)
            for suffix in ("", "OneShot")
        ]
        if "menu-force" in timeouts:
            found.refusals.append(_WAITS)
        return found

    def _examine_entries(self, found: Findings, esp: Esp) -> None:
        where = self._machine.path(esp.point) / "loader"
        if not (where / "entries").is_dir():
            found.refusals.append(
                f"There is no {esp.point}/loader/entries; `bootctl install` makes it."
            )
            return
        entries = {path.name: path for path in (where / "entries").glob("*.conf")}
        if ENTRY in entries:
            found.refusals.append(
                f"{esp.point}/loader/entries/{ENTRY} is still there from an earlier arming; "
                "disarm first."
            )
        settings = _settings(where / "loader.conf")
        if settings.get("timeout") == "menu-force":
            found.refusals.append(_WAITS)
        default = self._variables.text("LoaderEntryDefault", LOADER) or settings.get("default", "")
        if default.startswith("@saved"):
            found.refusals.append(
                "systemd-boot is set to boot again what it booted last, which would be the "
                "imager; set `default` of loader.conf to an entry."
            )
        elif not default and not self._comes_last(list(entries.values()), esp):
            found.refusals.append(
                "systemd-boot has no default entry, and the order of its menu may make it the "
                "imager's; set `default` of loader.conf to an entry."
            )

    def _comes_last(self, entries: Sequence[Path], esp: Esp) -> bool:
        """Whether there is an entry that is sorted before ours in any case, as it has a key."""
        version = re.match(r"systemd-boot (\d+)", self._variables.text("LoaderInfo", LOADER) or "")
        if version is None or int(version[1]) < _SORTS_BY_KEY:
            return False
        # Kernels that are images of their own have a key from the system's /etc/os-release.
        unified = self._machine.path(esp.point) / "EFI/Linux"
        return any("sort-key" in _settings(entry) for entry in entries) or any(
            unified.glob("*.efi")
        )

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the text of the entry. Raises `Refused`."""
        try:
            line = kernel_line(words)
        except ValueError as error:
            raise Refused(f"The kernel's command line cannot be taken over: {error}.") from None
        shown = "".join(letter for letter in title if letter.isprintable())
        return (
            f"title holdfast: write image {shown}\n"
            "linux /holdfast/vmlinuz\n"
            "initrd /holdfast/initramfs.img\n"
            f"options {line}\n"
        )

    @property
    def changes(self) -> Sequence[str]:
        """What arming writes for it, in that order."""
        point = "" if self._esp is None else self._esp.point
        return [f"{point}/loader/entries/{ENTRY}", f"{_ONE_SHOT} (EFI variable)"]

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Write the entry, then the variable that has it booted next."""
        esp, path = self._place()
        shown = f"{esp.point}/loader/entries/{ENTRY}"
        report = write_file(path, [entry.encode()], esp.storage.mode(0o600), shown)
        esp.storage.settle()
        esp.storage.check(path, entry.encode())
        self._variables.write(_ONE_SHOT, LOADER, efi_text(ENTRY))
        return [report]

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Unknown: there is none of its code to ask. The file system was read as it does."""
        return None

    def armed(self) -> Armed:
        """Check what it would boot."""
        entry = None
        if self._esp is not None:
            try:
                entry = read_plain(self._place()[1], _MAX_ENTRY).decode(errors="replace")
            except FileNotFoundError:
                entry = None
        return Armed(entry=entry, next=self._variables.read(_ONE_SHOT, LOADER) == efi_text(ENTRY))

    def prepare_reboot(self) -> RebootVerb:
        """There is nothing to prepare."""
        return "reboot"

    def disarm(self) -> DisarmReport:
        """Remove the variable, if it is ours, and the entry."""
        removed = []
        if self._variables.read(_ONE_SHOT, LOADER) == efi_text(ENTRY):
            self._variables.delete(_ONE_SHOT, LOADER)
            removed.append(f"{_ONE_SHOT} (EFI variable)")
        if self._esp is not None:
            esp, path = self._place()
            if path.parent.is_dir():
                clear_partial(path)
            if path.exists():
                path.unlink()
                flush_directory(path.parent)
                esp.storage.settle()
                removed.append(f"{esp.point}/loader/entries/{ENTRY}")
        return DisarmReport(restored=[], edited=[], removed=removed)

    def _place(self) -> tuple[Esp, Path]:
        if self._esp is None:
            raise Refused("The partition that systemd-boot was started from is not mounted.")
        return self._esp, self._machine.path(self._esp.point) / "loader/entries" / ENTRY


_WAITS = (
    "systemd-boot is set to wait in its menu for a person (`timeout menu-force`); set another "
    "timeout."
)


def _settings(path: Path) -> dict[str, str]:
    """Read a file of lines with a word and a value. Raises `OSError`; none if it is not there."""
    try:
        text = read_plain(path, _MAX_ENTRY).decode(errors="replace")
    except FileNotFoundError:
        return {}
    lines = (line.split(None, 1) for line in text.splitlines() if not line.startswith("#"))
    return {line[0]: line[1].strip() for line in lines if len(line) > 1}
