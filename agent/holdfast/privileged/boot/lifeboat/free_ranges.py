"""Which ranges of a disk nothing of the running system needs: its partition tables and the kernel.

Both are asked, since the kernel may know of partitions that the table does not have any more, and
shows an extended partition as its first sectors only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast import _engine
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.gpt import GptTable, table_at
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.lifeboat.parts import ALIGNED, END_BYTES, Region, aligned


def beyond_image(image_bytes: int, disk_bytes: int) -> Region | None:
    """Return the range of a disk that an image does not write; None where there is none."""
    start = max(aligned(image_bytes), END_BYTES)
    end = (disk_bytes - END_BYTES) // ALIGNED * ALIGNED
    return Region(start, end - start) if end > start else None


def overlap(one: Region, other: Region) -> Region | None:
    """Return what two ranges have in common, at the alignment of a lifeboat's region."""
    start = aligned(max(one.offset_bytes, other.offset_bytes))
    end = min(one.end_bytes, other.end_bytes) // ALIGNED * ALIGNED
    return Region(start, end - start) if end > start else None


def gaps(taken: Sequence[Region], within: Region) -> Sequence[Region]:
    """Return the ranges of `within` that are not taken, in the order of the disk."""
    found, at = [], within.offset_bytes
    for region in sorted(taken, key=lambda region: region.offset_bytes):
        if region.offset_bytes > at:
            free = overlap(Region(at, region.offset_bytes - at), within)
            found += [] if free is None else [free]
        at = max(at, region.end_bytes)
    rest = overlap(Region(at, within.end_bytes - at), within) if at < within.end_bytes else None
    return [*found, *([] if rest is None else [rest])]


def partitions(machine: MachineFiles, disk: str) -> Sequence[Region]:
    """Return the partitions of a disk that the kernel knows."""
    sysfs = machine.sysfs(udev=False)
    found = []
    for name in sysfs.partitions(disk):
        device = sysfs.describe(name)
        if device is not None and device.size_bytes:
            found.append(Region(sysfs.start_bytes(name), device.size_bytes))
    return found


def tables(device: Path, sector_bytes: int) -> Sequence[Region]:
    """Return what the tables on a disk have in use, and where they are themselves.

    Raises `OSError`; `EINVAL` for a table that is damaged.
    """
    with raw(device) as file:
        first = b"".join(read_raw(file, 0, 512))
    found = [Region(0, 1 << 20)]
    for start, sectors in _engine.mbr_ranges(first):
        found.append(Region(start * sector_bytes, sectors * sector_bytes))
    table = table_at(device, 1, sector_bytes)
    if table is None:
        return found
    found += _of_gpt(table, sector_bytes)
    # It is not at the end of a disk that was enlarged since.
    other = table_at(device, table.other, sector_bytes)
    if other is not None:
        found += _of_gpt(other, sector_bytes)
    return found


def _of_gpt(table: GptTable, sector_bytes: int) -> Iterator[Region]:
    yield Region(table.own * sector_bytes, sector_bytes)
    yield Region(table.entries_at * sector_bytes, table.entries_bytes)
    for partition in table.partitions:
        yield Region(partition.start * sector_bytes, partition.sectors * sector_bytes)
