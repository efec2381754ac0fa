"""Memory of the machine, and the limits that cgroups set to this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

from holdfast.node.models import CgroupMemory, Memory
from holdfast.node.paths.files import read_int, read_text
from holdfast.node.storage.mounts import Mount, read_mounts

# Version 1 expresses "no limit" by the largest multiple of the page size that a signed long holds.
_NO_LIMIT = (2**63 - 1) // 65536 * 65536


def read_memory(proc: Path = Path("/proc")) -> Memory:
    """Read the state of memory now. Raises `OSError` where /proc is not mounted."""
    virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
    cgroups = read_cgroups(proc)
    return Memory(
        total_bytes=virtual.total,
        available_bytes=virtual.available,
        cached_bytes=virtual.cached,
        dirty_bytes=_dirty(proc),
        swap_total_bytes=swap.total,
        swap_used_bytes=swap.used,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cgroups=cgroups,
        headroom_bytes=headroom(cgroups),
    )


def read_cgroups(proc: Path = Path("/proc")) -> list[CgroupMemory]:
    """Return the cgroups with memory accounting that this process is in, innermost first."""
    try:
        mounts = read_mounts(proc)
        lines = (proc / "self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    found: list[CgroupMemory] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = next((mount for mount in mounts if mount.file_system == "cgroup2"), None)
            read = _read_v2
        elif "memory" in controllers.split(","):
            mount = next((mount for mount in mounts if _is_v1_memory(mount)), None)
            read = _read_v1
        else:
            continue
        if mount is not None:
            found += [read(where, name) for where, name in _ancestry(mount, path)]
    # Where version 2 is mounted without the memory controller it reports nothing.
    return [limits for limits in found if _says_something(limits)]


def headroom(cgroups: list[CgroupMemory]) -> int | None:
    """Return what the tightest limit leaves, in bytes; None when there is no limit."""
    left = [
        max(limit - (cgroup.current_bytes or 0), 0)
        for cgroup in cgroups
        for limit in (cgroup.max_bytes, cgroup.high_bytes)
        if limit is not None
    ]
    return min(left, default=None)


def _says_something(group: CgroupMemory) -> bool:
    return (group.max_bytes, group.high_bytes, group.current_bytes) != (None, None, None)


def _is_v1_memory(mount: Mount) -> bool:
    return mount.file_system == "cgroup" and "memory" in mount.super_options.split(",")


def _ancestry(mount: Mount, path: str) -> Iterator[tuple[Path, str]]:
    """Yield the directories from a cgroup up to the root of what is mounted, and their names."""
    within = PurePosixPath(path)
    if within.is_relative_to(mount.root):
        # In a container only a part of the hierarchy is mounted.
        within = PurePosixPath("/") / within.relative_to(mount.root)
    if ".." in within.parts:
        return
    for group in (within, *within.parents):
        yield Path(mount.point + str(group)), str(group)


def _read_v2(where: Path, name: str) -> CgroupMemory:
    return CgroupMemory(
        version=2,
        path=_shown(name),
        max_bytes=read_int(where / "memory.max"),
        high_bytes=read_int(where / "memory.high"),
        current_bytes=read_int(where / "memory.current"),
    )


def _read_v1(where: Path, name: str) -> CgroupMemory:
    limit = read_int(where / "memory.limit_in_bytes")
    return CgroupMemory(
        version=1,
        path=_shown(name),
        max_bytes=None if limit is None or limit >= _NO_LIMIT else limit,
        high_bytes=None,
        current_bytes=read_int(where / "memory.usage_in_bytes"),
    )


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _dirty(proc: Path) -> int | None:
    for line in (read_text(proc / "meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "Dirty":
            return int(value.split()[0]) * 1024
    return None
