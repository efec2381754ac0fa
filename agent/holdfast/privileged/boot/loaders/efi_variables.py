"""Variables of the firmware, through efivarfs (Documentation/filesystems/efivarfs.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""The firmware's own: SecureBoot, BootNext, Boot0000."""
LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""Those of systemd's boot loader interface (https://systemd.io/BOOT_LOADER_INTERFACE)."""
_LASTING = 7  # non-volatile, for boot services and at run time
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP)
_NUMBERED = re.compile(r"Boot([0-9A-F]{4})")


class EfiVariables:
    """The variables of a machine; none where it does not boot with EFI."""

    def __init__(self, machine: MachineFiles) -> None:
        self._directory = machine.sys / "firmware/efi/efivars"

    def read(self, name: str, vendor: str) -> bytes | None:
        """Return a variable's value, or None. Raises `OSError`."""
        try:
            return self._path(name, vendor).read_bytes()[4:]
        except FileNotFoundError:
            return None

    def text(self, name: str, vendor: str) -> str | None:
        """Return a variable that is text, without its end. Raises `OSError`."""
        value = self.read(name, vendor)
        return None if value is None else value.decode("utf-16-le", "replace").rstrip("\0")

    def write(self, name: str, vendor: str, value: bytes) -> None:
        """Set a variable that lasts, and read it back. Raises `OSError`."""
        path = self._path(name, vendor)
        _make_mutable(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o644)
        try:
            os.write(file, struct.pack("<I", _LASTING) + value)
        finally:
            os.close(file)
        if self.read(name, vendor) != value:
            raise OSError(errno.EIO, "the firmware did not keep what was written", str(path))

    def delete(self, name: str, vendor: str) -> None:
        """Delete a variable, if there is one. Raises `OSError`."""
        path = self._path(name, vendor)
        _make_mutable(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if self.read(name, vendor) is not None:
            raise OSError(errno.EIO, "the firmware did not delete it", str(path))

    def boot_numbers(self) -> Sequence[int]:
        """Return the numbers of all entries of the firmware's boot menu. Raises `OSError`."""
        found = []
        for path in self._directory.glob(f"Boot*-{GLOBAL}"):
            match = _NUMBERED.fullmatch(path.name.partition("-")[0])
            if match is not None:
                found.append(int(match[1], 16))
        return sorted(found)

    @property
    def usable(self) -> bool:
        """Whether there are any at all: efivarfs may not be mounted."""
        return any(self._directory.glob(f"*-{GLOBAL}"))

    @property
    def secure_boot(self) -> bool:
        """Whether the firmware only runs what is signed. Raises `OSError`."""
        return self.read("SecureBoot", GLOBAL) == b"\1"

    def _path(self, name: str, vendor: str) -> Path:
        return self._directory / f"{name}-{vendor}"


def efi_text(text: str) -> bytes:
    """Return text as EFI has it: UTF-16 with an end."""
    return (text + "\0").encode("utf-16-le")


def _make_mutable(path: Path) -> None:
    """Take the flag away that keeps a variable from being changed by mistake."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        buffer = bytearray(8)
        fcntl.ioctl(file, _GET_FLAGS, buffer)
        (flags,) = struct.unpack_from("=i", buffer)
        if flags & _IMMUTABLE:
            struct.pack_into("=i", buffer, 0, flags & ~_IMMUTABLE)
            fcntl.ioctl(file, _SET_FLAGS, bytes(buffer))
    except OSError as error:
        if error.errno not in _NO_FLAGS:
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(file)
