"""GRUB 2 on BIOS, as Debian and Ubuntu set it up.

Its grub.cfg boots `next_entry` of the environment block once, and sources custom.cfg. Nothing of
grub.cfg is changed, and the default stays the old system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from holdfast.durable import clear_partial, flush_directory
from holdfast.node.disks import Place, place_of, superblock_of
from holdfast.node.machine import Machine
from holdfast.privileged.boot.cmdline import grub_quoted
from holdfast.privileged.boot.custom_cfg import (
    MarksError,
    block_of,
    has_block,
    with_block,
    without_block,
)
from holdfast.privileged.boot.durable import overwrite, read_plain, write_file
from holdfast.privileged.boot.extents import single_place
from holdfast.privileged.boot.freeze import settle
from holdfast.privileged.boot.grub_environment import (
    SIZE,
    EnvironmentBlockError,
    variables,
    with_variable,
)
from holdfast.privileged.boot.loader import PAYLOAD, Armed, Findings
from holdfast.privileged.boot.models import DisarmReport, FileReport
from holdfast.privileged.boot.previous import Before, Previous
from holdfast.privileged.boot.read_back import digest_on_disk, grub_digest, raw, read_raw
from holdfast.privileged.writes import Refused

_How = Literal["same", "restored", "edited"]

ENTRY_ID = b"holdfast-imager"
_NEXT = b"next_entry"
_DIRECTORIES = ("/boot/grub", "/boot/grub2")
_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs"})
_MAX_CONFIG = 16 << 20
_COMMAND_LINE = 2047  # COMMAND_LINE_SIZE of x86, with its NUL
_SOURCES = re.compile(rb"^\s*(source|\.|configfile)\s+\S*custom\.cfg", re.MULTILINE)
_BOOTS_NEXT = (
    re.compile(rb"^\s*load_env\b", re.MULTILINE),
    re.compile(rb"^\s*set\s+default=\"?\$\{?next_entry\}?\"?", re.MULTILINE),
    re.compile(rb"^\s*save_env\s+(\S+\s+)*next_entry\b", re.MULTILINE),
)


class Grub:
    """The GRUB of a machine whose configuration is in `directory`."""

    name = "grub2-bios"

    def __init__(self, machine: Machine, directory: str, place: Place) -> None:
        self._machine = machine
        self._directory = directory
        self._place = place
        self._custom = machine.path(directory) / "custom.cfg"
        self._environment = machine.path(directory) / "grubenv"
        self._previous = Previous(machine.path(PAYLOAD) / "previous")

    @classmethod
    def detect(cls, machine: Machine) -> Grub | None:
        """Return the GRUB of this machine; None if there is none, or not on BIOS."""
        if machine.boots_with_efi:
            return None
        for directory in _DIRECTORIES:
            if (machine.path(directory) / "grub.cfg").exists():
                place = place_of(machine, directory)
                # Where it is nothing that is known, the disks' refusals say why.
                return None if isinstance(place, str) else cls(machine, directory, place)
        return None

    def examine(self) -> Findings:
        """Find out whether it can be used; writes nothing."""
        found = Findings()
        self._examine_place(found)
        self._examine_boot_sector(found)
        self._examine_config(found)
        self._examine_environment(found)
        try:
            if has_block(self._read_custom() or b""):
                found.refusals.append(
                    f"{self._shown(self._custom)} still has an entry of an earlier arming; "
                    "disarm first."
                )
        except (MarksError, OSError) as error:
            found.refusals.append(f"{self._shown(self._custom)} {_clause(error)}.")
        return found

    def entry(self, title: str, words: Sequence[str]) -> str:
        """Return the text of the entry. Raises `Refused`."""
        held = superblock_of(self._machine, self._place.partition.name)
        if held is None or held.uuid is None:
            raise Refused(f"{self._place.partition.path}, with /boot, tells no UUID.")
        line = " ".join(words)
        if len(line.encode()) > _COMMAND_LINE:
            raise Refused(f"The kernel's command line would have more than {_COMMAND_LINE} bytes.")
        try:
            quoted = " ".join(grub_quoted(word) for word in words)
        except ValueError as error:
            raise Refused(f"The kernel's command line cannot be taken over: {error}.") from None
        title = "holdfast: write image " + "".join(one for one in title if one.isprintable())
        kernel, initramfs = (self._seen(f"{PAYLOAD}/{one}") for one in ("vmlinuz", "initramfs.img"))
        chosen = ENTRY_ID.decode()
        # Whatever the menu does on other days: this one boot waits for nobody, asks for no
        # password, and if it cannot be loaded then the first entry is booted.
        return (
            f"menuentry {_quoted(title)} --unrestricted --id {chosen} {{\n"
            f"  search --no-floppy --fs-uuid --set=root {held.uuid}\n"
            f"  linux {grub_quoted(kernel)} {quoted}\n"
            f"  initrd {grub_quoted(initramfs)}\n"
            "}\n"
            f'if [ "${{default}}" = "{chosen}" ]; then\n'
            "  set timeout_style=menu\n"
            "  set timeout=3\n"
            "  set fallback=0\n"
            "fi\n"
        )

    def arm(self, entry: str) -> Sequence[FileReport]:
        """Add the entry, then have it booted next."""
        custom = self._read_custom()
        environment = read_plain(self._environment, SIZE)
        try:
            armed_custom = with_block(custom or b"", entry.encode())
            armed_environment = with_variable(environment, _NEXT, ENTRY_ID)
        except (MarksError, EnvironmentBlockError) as error:
            raise Refused(f"GRUB cannot be armed: a file of it {error}.") from None
        self._previous.keep(self._custom, self._environment, armed_custom, armed_environment)
        directory = self._custom.parent
        mode = 0o644 if custom is None else stat.S_IMODE(self._custom.lstat().st_mode)
        wrote = write_file(self._custom, [armed_custom], mode, self._shown(self._custom))
        settle(directory)
        self._check(self._custom, armed_custom)
        # Last, and in place: without this nothing but the old system is ever booted.
        overwrite(self._environment, armed_environment)
        settle(directory)
        self._check(self._environment, armed_environment)
        shown = self._shown(self._environment)
        report = FileReport(path=shown, size_bytes=SIZE, sha256=_sha256(armed_environment))
        return [wrote, report]

    def sees(self, files: Sequence[FileReport]) -> bool | None:
        """Whether GRUB's own code reads these files as they are; None without grub-fstest."""
        for file in files:
            found = grub_digest(self._device, self._seen(file.path))
            if found is None:
                return None
            if found != file.sha256:
                raise OSError(5, "GRUB reads something else than what was written", file.path)
        return True

    def armed(self) -> Armed:
        """Look at what it would boot."""
        try:
            block = block_of(self._read_custom() or b"")
            entry = None if block is None else block.decode(errors="replace")
            environment = variables(read_plain(self._environment, SIZE))
        except FileNotFoundError:
            return Armed(entry=None, next=False)
        except (MarksError, EnvironmentBlockError) as error:
            raise Refused(f"GRUB's configuration cannot be understood: a file {error}.") from None
        return Armed(entry=entry, next=environment.get(_NEXT) == ENTRY_ID)

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
            settle(self._custom.parent)
            with contextlib.suppress(FileNotFoundError):
                self._check(self._environment, read_plain(self._environment, SIZE))
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
        found = dict(variables(now))
        if before is not None:
            was = dict(variables(before.environment))
            next_now, next_was = found.pop(_NEXT, b""), was.pop(_NEXT, b"")
            # GRUB itself sets it to nothing when it boots the entry.
            if found == was and next_now in (ENTRY_ID, b"", next_was):
                overwrite(self._environment, before.environment)
                os.utime(self._environment, ns=(before.environment_mtime_ns,) * 2)
                return "restored"
        if variables(now).get(_NEXT) != ENTRY_ID:
            return "same"
        overwrite(self._environment, with_variable(now, _NEXT, None))
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

    def _examine_place(self, found: Findings) -> None:
        boot = place_of(self._machine, PAYLOAD if self._payload_exists else "/boot")
        if isinstance(boot, Place) and boot.partition.name != self._place.partition.name:
            found.refusals.append(f"{self._directory} and /boot are on different partitions.")
        kind = self._place.mount.file_system
        if kind not in _FILE_SYSTEMS:
            found.refusals.append(
                f"{self._directory} lies on {kind}, where GRUB cannot take the one-time choice "
                "back by itself; it can on ext2, ext3, ext4 and xfs."
            )
        # Of the file system, not of this mount: to a service everything may be read-only.
        if "ro" in self._place.mount.super_options.split(","):
            found.refusals.append(f"{self._directory} is mounted read-only.")

    @property
    def _payload_exists(self) -> bool:
        return self._machine.path(PAYLOAD).is_dir()

    def _examine_boot_sector(self, found: Findings) -> None:
        disk = self._machine.dev / self._place.disk.name
        try:
            with raw(disk) as file:
                sector = b"".join(read_raw(file, 0, 512))
        except OSError as error:
            found.unknown.append(f"The boot sector of {disk} cannot be read: {error.strerror}.")
            return
        if b"GRUB" not in sector[:440] or sector[510:] != b"\x55\xaa":
            found.refusals.append(f"The boot sector of {disk} is not GRUB's.")

    def _examine_config(self, found: Findings) -> None:
        path = self._custom.parent / "grub.cfg"
        try:
            config = read_plain(path, _MAX_CONFIG)
        except OSError as error:
            where = found.unknown if isinstance(error, PermissionError) else found.refusals
            where.append(f"{self._shown(path)} cannot be read: {error.strerror}.")
            return
        if not _SOURCES.search(config):
            found.refusals.append(
                f"{self._shown(path)} does not source custom.cfg; /etc/grub.d/41_custom and "
                "update-grub make it do so."
            )
        if not all(one.search(config) for one in _BOOTS_NEXT):
            found.refusals.append(
                f"{self._shown(path)} does not boot `next_entry` of grubenv once; /etc/grub.d/"
                "00_header and update-grub make it do so."
            )

    def _examine_environment(self, found: Findings) -> None:
        shown = self._shown(self._environment)
        try:
            status = self._environment.lstat()
            if not stat.S_ISREG(status.st_mode):
                found.refusals.append(f"{shown} is not a regular file.")
                return
            block = read_plain(self._environment, max(SIZE, status.st_size))
            following = variables(block).get(_NEXT, b"")
            if following == ENTRY_ID:
                found.refusals.append(f"{shown} is still armed by an earlier arming; disarm first.")
            elif following:
                found.refusals.append(
                    f"{shown} has a next_entry of somebody else's, "
                    f"{following.decode(errors='replace')!r}; reboot or unset it first."
                )
            with_variable(block, _NEXT, ENTRY_ID)
            single_place(self._environment, SIZE)
        except FileNotFoundError:
            found.refusals.append(f"There is no {shown}; `grub-editenv - create` makes it.")
        except PermissionError as error:
            found.unknown.append(f"{shown} cannot be read: {error.strerror}.")
        except EnvironmentBlockError as error:
            found.refusals.append(f"{shown} {error}; `grub-editenv - create` makes a new one.")
        except OSError as error:
            found.refusals.append(f"{shown} cannot be used: {error.strerror}.")

    def _read_custom(self) -> bytes | None:
        try:
            return read_plain(self._custom, _MAX_CONFIG)
        except FileNotFoundError:
            return None

    def _check(self, path: Path, content: bytes) -> None:
        if digest_on_disk(path, self._device) != _sha256(content):
            raise OSError(5, "the disk does not have what was written", str(path))

    @property
    def _device(self) -> Path:
        return self._machine.dev / self._place.partition.name

    def _seen(self, path: str) -> str:
        """Return a path as GRUB calls it: on the file system, wherever that is mounted."""
        inner = Path(path).relative_to(self._place.mount.point)
        return str(Path(self._place.mount.root) / inner)

    def _shown(self, path: Path) -> str:
        return self._machine.inside(path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _clause(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return str(error)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
