"""Whether a GRUB can be trusted to boot an entry once, and to take that back by itself."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping

from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, position_of
from holdfast.privileged.boot.disk.file_io import read_plain
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.disk.storage import Storage
from holdfast.privileged.boot.kernel import kernel_of, stub_of
from holdfast.privileged.boot.loaders.custom_cfg import MarksError, has_block
from holdfast.privileged.boot.loaders.efi_variables import EfiVariables
from holdfast.privileged.boot.loaders.grub_environment import (
    SIZE,
    EnvironmentBlockError,
    variables,
    with_variable,
)
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Findings

ENTRY_ID = b"holdfast-imager"
NEXT = b"next_entry"
_ELSEWHERE = b"env_block"
"""Where the block is that GRUB writes instead, from Fedora 44 on: 00_header."""
_COUNTER = b"boot_counter"
"""How often GRUB tries an updated OSTree before it boots the previous one: 08_fallback_counting."""
MAX_CONFIG = 16 << 20
"""Bytes of grub.cfg and custom.cfg."""
_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs"})
_SOURCES = re.compile(rb"^\s*(source|\.|configfile)\s+\S*custom\.cfg", re.MULTILINE)
_BOOTS_NEXT = (
    re.compile(rb"^\s*load_env\b", re.MULTILINE),
    re.compile(rb"^\s*set\s+default=\"?\$\{?next_entry\}?\"?", re.MULTILINE),
    re.compile(rb"^\s*save_env\s+(\S+\s+)*next_entry\b", re.MULTILINE),
)


def unfit_place(storage: Storage, directory: str) -> str | None:
    """Return why GRUB cannot revert a choice where its environment block is, or None."""
    if storage.kind in _FILE_SYSTEMS:
        return None
    return (
        f"{directory} is on {storage.kind}, where GRUB cannot clear the one-time choice by "
        "itself; it can on ext2, ext3, ext4 and xfs."
    )


def examine(machine: MachineFiles, directory: str, storage: Storage) -> Findings:
    """Check everything that it depends on; writes nothing."""
    checks = _Checks(machine, directory, storage)
    checks.place()
    if machine.boots_with_efi:
        checks.firmware()
    else:
        checks.boot_sector()
    checks.config()
    checks.environment()
    checks.custom()
    return checks.found


class _Checks:
    def __init__(self, machine: MachineFiles, directory: str, storage: Storage) -> None:
        self._machine = machine
        self._directory = directory
        self._storage = storage
        self._where = machine.path(directory)
        self.found = Findings()

    def place(self) -> None:
        boot = position_of(self._machine, PAYLOAD if self._payload_exists else "/boot")
        if (
            isinstance(boot, DiskPosition)
            and boot.partition.name != self._storage.place.partition.name
        ):
            self._refuse(f"{self._directory} and /boot are on different partitions.")
        unfit = unfit_place(self._storage, self._directory)
        if unfit is not None:
            self._refuse(unfit)
        if self._storage.read_only:
            self._refuse(f"{self._directory} is mounted read-only.")

    @property
    def _payload_exists(self) -> bool:
        return self._machine.path(PAYLOAD).is_dir()

    def boot_sector(self) -> None:
        disk = self._machine.dev / self._storage.place.disk.name
        try:
            with raw(disk) as file:
                sector = b"".join(read_raw(file, 0, 512))
        except OSError as error:
            self._unknown(f"The boot sector of {disk} cannot be read: {error.strerror}.")
            return
        if b"GRUB" not in sector[:440] or sector[510:] != b"\x55\xaa":
            self._refuse(f"The boot sector of {disk} is not GRUB's.")

    def firmware(self) -> None:
        # GRUB names the kernel's file to the kernel; a firmware that runs it directly does not.
        words = (read_text(self._machine.proc / "cmdline") or "").split()
        if not any(word.startswith("BOOT_IMAGE=") for word in words):
            self._refuse(
                "This system was not booted by GRUB: its kernel got no BOOT_IMAGE. Boot it "
                "through GRUB first."
            )
        try:
            if not EfiVariables(self._machine).secure_boot:
                return
            stub = stub_of(kernel_of(self._machine))
        except FileNotFoundError:
            return  # reported where the kernel is searched for
        except OSError as error:
            self._unknown(f"{error.filename} cannot be read: {error.strerror}.")
            return
        if stub is None or not stub.signed:
            self._refuse(
                "Secure Boot is on, and the kernel that runs the imager, "
                f"{self._machine.inside(kernel_of(self._machine))}, has no signature; boot into "
                "the distribution's own kernel, or turn Secure Boot off."
            )

    def config(self) -> None:
        path = self._where / "grub.cfg"
        shown = self._machine.inside(path)
        try:
            config = read_plain(path, MAX_CONFIG)
        except PermissionError as error:
            self._unknown(f"{shown} cannot be read: {error.strerror}.")
            return
        except OSError as error:
            self._refuse(f"{shown} cannot be read: {error.strerror}.")
            return
        again = "update-grub" if self._where.name == "grub" else f"grub2-mkconfig -o {shown}"
        if not _SOURCES.search(config):
            self._refuse(
                f"{shown} does not source custom.cfg; /etc/grub.d/41_custom and {again} make it "
                "do so."
            )
        if not all(pattern.search(config) for pattern in _BOOTS_NEXT):
            self._refuse(
                f"{shown} does not boot `next_entry` of grubenv once; /etc/grub.d/00_header and "
                f"{again} make it do so."
            )

    def environment(self) -> None:
        path = self._where / "grubenv"
        shown = self._machine.inside(path)
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                self._refuse(f"{shown} is not a regular file.")
                return
            block = read_plain(path, max(SIZE, status.st_size))
            self._variables(shown, variables(block))
            with_variable(block, NEXT, ENTRY_ID)
            self._storage.single_place(path, SIZE)
        except FileNotFoundError:
            self._refuse(f"There is no {shown}; `{self._tool} - create` makes it.")
        except PermissionError as error:
            self._unknown(f"{shown} cannot be read: {error.strerror}.")
        except EnvironmentBlockError as error:
            self._refuse(f"{shown} {error}; `{self._tool} - create` makes a new one.")
        except OSError as error:
            self._refuse(f"{shown} cannot be used: {error.strerror}.")

    def _variables(self, shown: str, found: Mapping[bytes, bytes]) -> None:
        following = found.get(NEXT, b"")
        if following == ENTRY_ID:
            self._refuse(f"{shown} is still armed by an earlier arming; disarm first.")
        elif following:
            self._refuse(
                f"{shown} has a next_entry of another program, "
                f"{following.decode(errors='replace')!r}; reboot or unset it first."
            )
        if found.get(_ELSEWHERE):
            self._refuse(
                f"{shown} has env_block set: GRUB writes its variables elsewhere, and would not "
                "clear the one-time choice here."
            )
        if found.get(_COUNTER):
            self._refuse(
                f"{shown} counts boots until the system is rolled back (boot_counter), and those "
                "of the imager would count; let that end, or unset it, first."
            )

    def custom(self) -> None:
        path = self._where / "custom.cfg"
        shown = self._machine.inside(path)
        try:
            if has_block(read_plain(path, MAX_CONFIG)):
                self._refuse(f"{shown} still has an entry of an earlier arming; disarm first.")
        except FileNotFoundError:
            return
        except MarksError as error:
            self._refuse(f"{shown} {error}.")
        except OSError as error:
            self._refuse(f"{shown} cannot be read: {error.strerror}.")

    @property
    def _tool(self) -> str:
        return "grub-editenv" if self._where.name == "grub" else "grub2-editenv"

    def _refuse(self, sentence: str) -> None:
        self.found.refusals.append(sentence)

    def _unknown(self, sentence: str) -> None:
        self.found.unknown.append(sentence)
