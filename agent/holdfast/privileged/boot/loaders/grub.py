"""GRUB 2, on BIOS and on UEFI, as Debian, Ubuntu, Fedora, RHEL and Amazon Linux set it up.

Its grub.cfg boots `next_entry` of the environment block once, and sources custom.cfg; so do those
that take their other entries from /boot/loader/entries. Nothing of grub.cfg is changed, and the
default stays the old system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, position_of, superblock_of
from holdfast.privileged.boot.disk.file_io import overwrite, read_plain, write_file
from holdfast.privileged.boot.disk.read_back import grub_digest
from holdfast.privileged.boot.disk.storage import Storage
from holdfast.privileged.boot.loaders.cmdline import grub_quoted, kernel_line
from holdfast.privileged.boot.loaders.custom_cfg import (
    MarksError,
    block_of,
    has_block,
    with_block,
    without_block,
)
from holdfast.privileged.boot.loaders.grub_checks import (
    ENTRY_ID,
    MAX_CONFIG,
    NEXT,
    examine,
    unfit_place,
)
from holdfast.privileged.boot.loaders.grub_environment import (
    SIZE,
    EnvironmentBlockError,
    variables,
    with_variable,
)
from holdfast.privileged.boot.loaders.loader import PAYLOAD, Armed, Findings, RebootVerb
from holdfast.privileged.boot.loaders.previous import Before, Previous
from holdfast.privileged.boot.models import DisarmReport, FileReport
from holdfast.privileged.writes import Refused
from holdfast.storage.atomic_files import clear_partial, flush_directory

_How = Literal["same", "restored", "edited"]

DIRECTORIES = ("/boot/grub", "/boot/grub2")
"""Where grub.cfg may be: of Debian's kind, and of Fedora's."""


class Grub:
    """The GRUB of a machine whose configuration is in `directory`."""

    def __init__(self, machine: MachineFiles, directory: str, place: DiskPosition) -> None:
        self._machine = machine
        self._directory = directory
        self._storage = Storage(machine, place)
        self._custom = machine.path(directory) / "custom.cfg"
        self._environment = machine.path(directory) / "grubenv"
        self._previous = Previous(machine.path(PAYLOAD) / "previous")
        self.name = "grub2-uefi" if machine.boots_with_efi else "grub2-bios"
        self.payload = PAYLOAD

    @classmethod
    def detect(cls, machine: MachineFiles) -> Grub | None:
        """Return the GRUB of this machine; None if there is none."""
        for directory in DIRECTORIES:
            if (machine.path(directory) / "grub.cfg").exists():
                place = position_of(machine, directory)
                # Where it is of no known kind, the disks' refusals state why.
                return None if isinstance(place, str) else cls(machine, directory, place)
        return None

    @property
    def changes(self) -> Sequence[str]:
        """What arming writes for it, in that order."""
        return [self._shown(self._custom), self._shown(self._environment)]

    def unfit(self) -> str | None:
        """Return why it can never be used here, or None."""
        return unfit_place(self._storage, self._directory)

    def examine(self) -> Findings:
        """Check whether it can be used; writes nothing."""
        return examine(self._machine, self._directory, self._storage)

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the text of the entry. Raises `Refused`."""
        held = superblock_of(self._machine, self._storage.place.partition.name)
        if held is None or held.uuid is None:
            raise Refused(f"{self._storage.place.partition.path}, with /boot, has no UUID.")
        try:
            kernel_line(words)  # what GRUB makes of it
            quoted = " ".join(grub_quoted(word) for word in words)
        except ValueError as error:
            raise Refused(f"The kernel's command line cannot be taken over: {error}.") from None
        title = "holdfast: write image " + "".join(
            letter for letter in title if letter.isprintable()
        )
        kernel, initramfs = (
            self._seen(f"{PAYLOAD}/{name}") for name in ("vmlinuz", "initramfs.img")
        )
        chosen = ENTRY_ID.decode()
        load = f"linux {grub_quoted(kernel)} {quoted}", f"initrd {grub_quoted(initramfs)}"
        # Whatever the menu does on other days: this one boot waits for nobody, asks for no
        # password, and if it cannot be loaded then the old system is booted.
        return (
            f"menuentry {_quoted(title)} --unrestricted --id {chosen} {{\n"
            f"  search --no-floppy --fs-uuid --set=root {held.uuid}\n"
            f"{_or_reboot(*load) if self._stays_in_menu else _plainly(*load)}"
            "}\n"
            f'if [ "${{default}}" = "{chosen}" ]; then\n'
            "  set timeout_style=menu\n"
            "  set timeout=3\n"
            "  set fallback=0\n"
            "fi\n"
        )

    @property
    def _stays_in_menu(self) -> bool:
        """Whether it may be Fedora's, which takes no fallback for what cannot be loaded.

        `grub_menu_execute_with_fallback` in grub-core/normal/menu.c of github.com/rhboot/grub2
        takes such an entry for one that was booted and came back, and waits in its menu.
        """
        return Path(self._directory).name == "grub2"

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Add the entry, then have it booted next."""
        custom = self._read_custom()
        environment = read_plain(self._environment, SIZE)
        try:
            armed_custom = with_block(custom or b"", entry.encode())
            armed_environment = with_variable(environment, NEXT, ENTRY_ID)
        except (MarksError, EnvironmentBlockError) as error:
            raise Refused(f"GRUB cannot be armed: a file of it {error}.") from None
        self._previous.keep(self._custom, self._environment, armed_custom)
        mode = 0o644 if custom is None else stat.S_IMODE(self._custom.lstat().st_mode)
        wrote = write_file(self._custom, [armed_custom], mode, self._shown(self._custom))
        self._storage.settle()
        self._storage.check(self._custom, armed_custom)
        # Last, and in place: without this nothing but the old system is ever booted.
        overwrite(self._environment, armed_environment)
        self._storage.settle()
        self._storage.check(self._environment, armed_environment)
        shown = self._shown(self._environment)
        report = FileReport(path=shown, size_bytes=SIZE, sha256=_sha256(armed_environment))
        return [wrote, report]

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Whether GRUB's own code reads these files as they are; None without grub-fstest."""
        for file in files:
            found = grub_digest(self._storage.device, self._seen(file.path))
            if found is None:
                return None
            if found != file.sha256:
                raise OSError(5, "GRUB reads something else than what was written", file.path)
        return True

    def armed(self) -> Armed:
        """Check what it would boot."""
        try:
            block = block_of(self._read_custom() or b"")
            entry = None if block is None else block.decode(errors="replace")
            environment = variables(read_plain(self._environment, SIZE))
        except FileNotFoundError:
            return Armed(entry=None, next=False)
        except (MarksError, EnvironmentBlockError) as error:
            raise Refused(f"GRUB's configuration cannot be understood: a file {error}.") from None
        return Armed(entry=entry, next=environment.get(NEXT) == ENTRY_ID)

    def prepare_reboot(self) -> RebootVerb:
        """There is nothing to prepare."""
        return "reboot"

    def disarm(self) -> DisarmReport:
        """Make both files as they were; first the environment, which is what boots the imager."""
        before = self._previous.read()
        clear_partial(self._custom)
        try:
            how = {self._environment: self._restore_environment(before)}
            how[self._custom] = self._restore_custom(before)
        except (MarksError, EnvironmentBlockError) as error:
            raise Refused(f"GRUB cannot be disarmed: a file of it {error}.") from None
        if set(how.values()) != {"same"}:
            self._storage.settle()
            with contextlib.suppress(FileNotFoundError):
                self._storage.check(self._environment, read_plain(self._environment, SIZE))
        return DisarmReport(
            restored=[self._shown(path) for path, what in how.items() if what == "restored"],
            edited=[self._shown(path) for path, what in how.items() if what == "edited"],
            removed=[],
        )

    def _restore_environment(self, before: Before | None) -> _How:
        try:
            now = read_plain(self._environment, SIZE)
        except FileNotFoundError:
            return "same"
        if before is not None and now == before.environment:
            return "same"
        was = {} if before is None else dict(variables(before.environment))
        found = dict(variables(now))
        next_was, next_now = was.pop(NEXT, None), found.pop(NEXT, None)
        # GRUB itself sets it to nothing when it boots the entry.
        ours = (ENTRY_ID,) if before is None else (ENTRY_ID, b"", None)
        if before is not None and found == was and next_now in (*ours, next_was):
            overwrite(self._environment, before.environment)
            os.utime(self._environment, ns=(before.environment_mtime_ns,) * 2)
            return "restored"
        # What else was set since stays: Fedora's GRUB notes at each boot that it is yet to succeed.
        if next_now == next_was or next_now not in ours:
            return "same"
        overwrite(self._environment, with_variable(now, NEXT, next_was))
        return "edited"

    def _restore_custom(self, before: Before | None) -> _How:
        now = self._read_custom()
        if now is None or not has_block(now):
            return "same"
        if before is not None and _sha256(now) == before.armed_custom_sha256:
            if before.custom is None:
                self._custom.unlink()
            else:
                # The file itself: its owner, mode and times are those that it had.
                before.custom.rename(self._custom)
            flush_directory(self._custom.parent)
            return "restored"
        left = without_block(now)
        if not left and (before is None or before.custom is None):
            self._custom.unlink()
            flush_directory(self._custom.parent)
        else:
            mode = stat.S_IMODE(self._custom.lstat().st_mode)
            write_file(self._custom, [left], mode, self._shown(self._custom))
        return "edited"

    def _read_custom(self) -> bytes | None:
        try:
            return read_plain(self._custom, MAX_CONFIG)
        except FileNotFoundError:
            return None

    def _seen(self, path: str) -> str:
        return self._storage.inner(path)

    def _shown(self, path: Path) -> str:
        return self._machine.inside(path)


def _plainly(linux: str, initrd: str) -> str:
    return f"  {linux}\n  {initrd}\n"


def _or_reboot(linux: str, initrd: str) -> str:
    """Return what loads and boots it, or boots the default: the choice is reverted by then."""
    return (
        f"  if {linux}; then\n    if {initrd}; then\n      boot\n    fi\n  fi\n"
        "  echo 'holdfast: the imager cannot be loaded; the old system is booted.'\n  reboot\n"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
