"""Finds the files that processes have open on a file system: other users' need privilege."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from holdfast.node.paths.files import read_text
from holdfast.node.storage.mounts import mount_of, read_mounts

_LOCAL = frozenset(
    [
        "bcachefs",
        "btrfs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "jfs",
        "overlay",
        "ramfs",
        "tmpfs",
        "vfat",
        "xfs",
        "zfs",
    ]
)
"""File systems that answer: those of servers and of programs may have ceased to."""
_KERNEL = frozenset(
    [
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "iso9660",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "squashfs",
        "sysfs",
        "tracefs",
    ]
)


def count_open_files(mount_point: str, proc: Path = Path("/proc")) -> dict[str, int]:
    """Count regular files of the file system mounted there, by `name (pid)`.

    Processes that this one may not look into are left out. Nothing is asked of file systems that
    may have ceased to answer. Raises `OSError` if there is no such directory, or it is on such a
    file system.
    """
    place = Path(os.path.normpath(mount_point))
    mount = mount_of(place, read_mounts(proc))
    if mount is None or mount.file_system not in _LOCAL:
        raise OSError(errno.ENOTSUP, "is not on a local file system", mount_point)
    # Not through a link, which may lead to another file system.
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), mount_point)
    processes: dict[str, int] = Counter()
    remote: dict[str, frozenset[str]] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        count = _count(entry, status.st_dev, remote)
        if count:
            processes[f"{read_text(entry / 'comm') or '?'} ({entry.name})"] = count
    return processes


class OpenFile(BaseModel, defer_build=True):
    """A file that a process may write to: by a descriptor, or by a shared mapping."""

    process: Annotated[str, Field(max_length=64)]
    """`name (pid)`"""
    pid: int
    device: int
    inode: int
    path: Annotated[str, Field(max_length=2048)]
    """Where it is in the directory; empty where its name is another one."""


class Writers(BaseModel, defer_build=True):
    """The files of a file system that may be written to."""

    files: list[OpenFile]
    uninspected: int = 0
    """Processes that this one may not look into, and those beyond `MAX_WRITERS`."""


MAX_WRITERS = 1000
_MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ .w.s [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+) +(/.*)$", re.MULTILINE
)
"""A shared, writable mapping of a file (proc_pid_maps(5))."""


def find_writers(directory: str, proc: Path = Path("/proc")) -> Writers:
    """Find regular files that processes may write to, on the file system of a directory.

    Files with a path in the directory are found whatever they are on; others may have a second name
    in it. At most `MAX_WRITERS` are returned. Raises `OSError` if there is no such directory, or it
    is not on a local file system.
    """
    place = Path(os.path.normpath(directory))
    mount = mount_of(place, read_mounts(proc))
    if mount is None or mount.file_system not in _LOCAL:
        raise OSError(errno.ENOTSUP, "is not on a local file system", directory)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    found = Writers(files=[])
    remote: dict[str, frozenset[str]] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        name = f"{read_text(entry / 'comm') or '?'} ({entry.name})"[-64:]
        try:
            written = [*_descriptors(entry, remote), *_mappings(entry)]
        except PermissionError:
            found.uninspected += 1
            continue
        except OSError:  # it ended
            continue
        for device, inode, path in set(written):
            within = Path(path).is_relative_to(place)
            if not within and device != status.st_dev:
                continue
            if len(found.files) == MAX_WRITERS:
                found.uninspected += 1
                break
            found.files.append(
                OpenFile(
                    process=name,
                    pid=int(entry.name),
                    device=device,
                    inode=inode,
                    path=path if within else "",
                )
            )
    return found


def _descriptors(
    process: Path, remote: dict[str, frozenset[str]]
) -> Iterator[tuple[int, int, str]]:
    """Yield device, inode and path of each regular file that is open for writing."""
    unasked = _remote(process, remote)
    with os.scandir(process / "fd") as entries:
        for entry in entries:
            info = read_text(process / "fdinfo" / entry.name) or ""
            fields = dict(line.partition(":")[::2] for line in info.splitlines())
            flags = int(fields.get("flags", "0").strip() or "0", 8)
            if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
                continue
            if fields.get("mnt_id", "").strip() in unasked:
                continue
            try:
                status = entry.stat()
                path = _shown(Path(entry.path).readlink())
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_nlink:
                yield status.st_dev, status.st_ino, path


def _mappings(process: Path) -> Iterator[tuple[int, int, str]]:
    """Yield device, inode and path of each file that is mapped shared and writable."""
    text = (process / "maps").read_bytes().decode(errors="replace")
    for major, minor, inode, path in _MAPPING.findall(text):
        if not path.endswith(" (deleted)"):
            yield os.makedev(int(major, 16), int(minor, 16)), int(inode), path[:2048]


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")[:2048]


def _count(process: Path, device: int, remote: dict[str, frozenset[str]]) -> int:
    count = 0
    try:
        unasked = _remote(process, remote)
        with os.scandir(process / "fd") as entries:
            for entry in entries:
                if unasked and _mount_id(process / "fdinfo" / entry.name) in unasked:
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue
                count += status.st_dev == device and stat.S_ISREG(status.st_mode)
    except OSError:  # gone, or not ours to inspect
        return 0
    return count


def _remote(process: Path, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return the numbers of the mounts of a process that may not answer; once per namespace."""
    space = str((process / "ns/mnt").readlink())
    if space not in known:
        found = set()
        for line in (process / "mountinfo").read_bytes().splitlines():
            left, _, right = line.partition(b" - ")
            kind = right.split(b" ")[0].decode("ascii", "replace")
            if kind not in _LOCAL | _KERNEL:
                found.add(left.split(b" ")[0].decode())
        known[space] = frozenset(found)
    return known[space]


def _mount_id(fdinfo: Path) -> str:
    for line in (read_text(fdinfo) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return value.strip()
    return ""
