"""Counts the files that processes have open on a file system: other users' need privilege."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from pathlib import Path

from holdfast.node.files import read_text
from holdfast.node.mounts import mount_of, read_mounts

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
