"""Writes of one value to one file of /proc/sys or /sys."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from holdfast.privileged.writes import (
    BlockWrite,
    HugePagesWrite,
    ModuleWrite,
    SysctlWrite,
    interface_of,
    sysctl_path,
)

_PROC_SYS = Path("/proc/sys")
_SYS = Path("/sys")


def write_sysctl(write: SysctlWrite) -> None:
    """Write a sysctl. Raises `Refused` for a name that is not for tuning, and `OSError`."""
    path = sysctl_path(write.name)
    interface = interface_of(path)
    if interface is None or not write.ifindex:
        _write(_PROC_SYS.joinpath(*path), write.value)
        return
    # A directory of an interface that is gone takes no writes, so nobody can swap it now.
    where = _PROC_SYS.joinpath(*path[:-1])
    directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _index(interface) != write.ifindex:
            raise OSError(errno.ENODEV, "another interface has this name now", interface)
        _write(Path(path[-1]), write.value, directory=directory, shown=where)
    finally:
        os.close(directory)


def write_block(write: BlockWrite) -> None:
    """Write an attribute of a block device's queue, if it still is the same device."""
    where = _SYS / "class/block" / write.device
    device = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A directory of sysfs stays that of the device that is gone, so nobody can swap it now.
        if write.diskseq and _read(device, "diskseq") != write.diskseq:
            raise OSError(errno.ENODEV, "another device has this name now", str(where))
        _write(Path("queue") / write.attribute, write.value, directory=device, shown=where)
    finally:
        os.close(device)


def write_huge_pages(write: HugePagesWrite) -> None:
    """Write a mode of transparent huge pages."""
    _write(_SYS / "kernel/mm/transparent_hugepage" / write.attribute, write.value)


def write_module(write: ModuleWrite) -> None:
    """Write a parameter of a loaded module."""
    _write(_SYS / "module" / write.module / "parameters" / write.parameter, write.value)


def _write(
    path: Path, value: str, *, directory: int | None = None, shown: Path | None = None
) -> None:
    whole = str(path if shown is None else shown / path)
    try:
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "is not a setting")
            # The kernel takes a value in one write or not at all.
            content = f"{value}\n".encode()
            if os.write(file, content) != len(content):
                raise OSError(errno.EIO, "the kernel took only a part of the value")
        finally:
            os.close(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, whole) from None


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _read(directory: int, name: str) -> str:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, 64).decode(errors="replace").strip()
    finally:
        os.close(file)
