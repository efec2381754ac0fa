"""Finds a place for the lifeboat on the target, and holds it.

Either a range beyond the image that no partition covers (the tail), or blocks of a file of the old
system. The tail comes first: it is known without allocating anything, and is the last of the disk,
so that a root that is extended loses least.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, position_of
from holdfast.privileged.boot.lifeboat.free_ranges import (
    beyond_image,
    gaps,
    overlap,
    partitions,
    tables,
)
from holdfast.privileged.boot.lifeboat.held_file import (
    FILE_SYSTEMS,
    HeldFile,
    hold_file,
    holds,
    release_file,
    usable_bytes,
)
from holdfast.privileged.boot.lifeboat.parts import LifeboatError, Region
from holdfast.privileged.boot.lifeboat.region import Sink
from holdfast.privileged.boot.models import LifeboatKind, LifeboatReport

FILES = ("/var/lib/holdfast-helper/lifeboat", "/boot/holdfast-lifeboat")
"""Where the file may be: in the helper's own directory, or beside the boot loader's."""
_BY_ARMING = (
    "Only arming can determine whether free blocks of {directory} lie together where the image "
    "does not write."
)


@dataclass(frozen=True)
class Place:
    """A region that is held."""

    kind: LifeboatKind
    device: Path
    """Of the disk."""
    region: Region
    file: HeldFile | None = None

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """Open what the region is written through. Raises `OSError`."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self.device if self.file is None else self.file.path
        offset = self.region.offset_bytes if self.file is None else self.file.offset_bytes
        file = os.open(path, flags)
        try:
            yield Sink(file, offset, None if self.file is None else path.parent)
        finally:
            os.close(file)


def prospect(
    machine: MachineFiles, system: DiskPosition, image_bytes: int, needed_bytes: int
) -> LifeboatReport:
    """Return where arming would hold a region; writes and allocates nothing. Raises `OSError`."""
    within = beyond_image(image_bytes, system.disk.size_bytes or 0)
    if within is None or within.length_bytes < needed_bytes:
        return LifeboatReport(kind="none", reason=_too_large(system, image_bytes, needed_bytes))
    tail = _tail(machine, system, within, needed_bytes, strict=False)
    if tail is not None:
        return LifeboatReport(
            kind="tail", offset_bytes=tail.offset_bytes, length_bytes=tail.length_bytes
        )
    reasons = []
    for path in FILES:
        directory = str(Path(path).parent)
        why = _why_no_file(machine, system, directory, within, needed_bytes)
        if why is None:
            reason = _BY_ARMING.format(directory=directory)
            return LifeboatReport(kind="file", length_bytes=needed_bytes, reason=reason)
        reasons.append(why)
    return LifeboatReport(kind="none", reason=" ".join(dict.fromkeys(reasons)))


def hold(
    machine: MachineFiles,
    system: DiskPosition,
    image_bytes: int,
    length: int,
    *,
    last: bool,
) -> Place:
    """Hold a region of `length` bytes; with `last` as far back on the disk as can be.

    Raises `LifeboatError` where there is none, `OSError`; also where the disk's own tables, which
    may have partitions that the kernel does not know, cannot be read.
    """
    device = machine.dev / system.disk.name
    within = beyond_image(image_bytes, system.disk.size_bytes or 0)
    if within is None or within.length_bytes < length:
        raise LifeboatError(_too_large(system, image_bytes, length))
    tail = _tail(machine, system, within, length, strict=True)
    if tail is not None:
        return Place("tail", device, tail)
    reasons = []
    for path in FILES:
        found = machine.path(path)
        why = _why_no_file(machine, system, str(Path(path).parent), within, length)
        if why is None:
            position = position_of(machine, str(Path(path).parent))
            assert isinstance(position, DiskPosition)  # noqa: S101 - or there were a reason
            found.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            release_file(found)  # of an arming that was cut off
            try:
                file = hold_file(found, position.start_bytes, within, length, last=last)
            except LifeboatError as error:
                why = str(error)
            else:
                return Place("file", device, file.region, file)
        reasons.append(why)
    raise LifeboatError(" ".join(dict.fromkeys(reasons)))


def is_held(machine: MachineFiles, region: Region) -> bool:
    """Whether one of the files still has the blocks of a region. Raises `OSError`."""
    for path in FILES:
        position = position_of(machine, str(Path(path).parent))
        if isinstance(position, DiskPosition) and holds(
            machine.path(path), position.start_bytes, region
        ):
            return True
    return False


def uncovered(machine: MachineFiles, system: DiskPosition, region: Region) -> bool:
    """Whether a region is on the disk, and no partition or table covers any of it.

    Raises `OSError`.
    """
    size = system.disk.size_bytes or 0
    if region.length_bytes <= 0 or region.end_bytes > size:
        return False
    return all(
        taken.end_bytes <= region.offset_bytes or taken.offset_bytes >= region.end_bytes
        for taken in _taken(machine, system, strict=True)
    )


def sector_bytes_of(machine: MachineFiles, system: DiskPosition) -> int:
    """Return the size of the disk's logical sectors."""
    device = machine.sysfs(udev=False).describe(system.disk.name)
    return (device.logical_block_size if device is not None else None) or 512


def _tail(
    machine: MachineFiles, system: DiskPosition, within: Region, length: int, *, strict: bool
) -> Region | None:
    """Return the last range without a partition, if there is one that is large enough."""
    free = gaps(_taken(machine, system, strict=strict), within)
    large = [gap for gap in free if gap.length_bytes >= length]
    return Region(large[-1].end_bytes - length, length) if large else None


def _taken(machine: MachineFiles, system: DiskPosition, *, strict: bool) -> Sequence[Region]:
    """Return what is in use. Without `strict` as far as this process may read the disk."""
    found = list(partitions(machine, system.disk.name))
    try:
        found += tables(machine.dev / system.disk.name, sector_bytes_of(machine, system))
    except (PermissionError, FileNotFoundError):  # a service may have no devices at all
        if strict:
            raise
    return found


def _why_no_file(  # noqa: PLR0911 - a reason each
    machine: MachineFiles, system: DiskPosition, directory: str, within: Region, length: int
) -> str | None:
    """Return why no file below a directory can hold the region, as far as that can be known."""
    place = position_of(machine, directory)
    if isinstance(place, str):
        return place
    name = f"{directory} is on {place.partition.path}"
    if place.disk.name != system.disk.name:
        return f"{name}, of another disk."
    if place.mount.file_system not in FILE_SYSTEMS:
        return f"{name}, a {place.mount.file_system}; only ext4 and xfs show where a file is."
    if "ro" in place.mount.super_options.split(","):
        return f"{name}, which is mounted read-only."
    own = Region(place.start_bytes, place.partition.size_bytes or 0)
    common = overlap(own, within)
    if common is None or common.length_bytes < length:
        return f"{name}, all of which the image writes."
    nearest = machine.path(directory)
    while not nearest.is_dir():
        nearest = nearest.parent
    free = usable_bytes(nearest)
    if free < length:
        return f"{name}, where {free} bytes can be had beside a reserve, and {length} are needed."
    return None


def _too_large(system: DiskPosition, image_bytes: int, needed: int) -> str:
    return (
        f"{system.disk.path} has {system.disk.size_bytes} bytes, and the image {image_bytes}: "
        f"{needed} bytes that the image does not write are needed. "
        "Use a smaller image or a larger disk."
    )
