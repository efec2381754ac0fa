"""A file of the old system whose blocks lie where an image never writes: they are kept by it.

All free blocks but a reserve are allocated for a moment, step by step, until a run of them lies
right; the others are freed again at once. Nothing is written meanwhile but what the file system
notes of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.boot.disk.extents import Extent, extents_of
from holdfast.privileged.boot.lifeboat.free_ranges import overlap
from holdfast.privileged.boot.lifeboat.parts import LifeboatError, Region
from holdfast.storage.atomic_files import flush_directory

FILE_SYSTEMS = ("ext4", "xfs")
_RESERVE_BYTES, _RESERVE_SHARE = 128 << 20, 20
_STEP_BYTES = 256 << 20
_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2  # linux/falloc.h
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class HeldFile:
    """A file with one run of blocks."""

    path: Path
    region: Region
    """On the disk."""
    offset_bytes: int
    """Of the region within the file."""


def usable_bytes(directory: Path) -> int:
    """Return how much of a file system may be allocated, so that its reserve stays free.

    Raises `OSError`.
    """
    space = os.statvfs(directory)
    reserve = max(_RESERVE_BYTES, space.f_blocks * space.f_frsize // _RESERVE_SHARE)
    return max(space.f_bavail * space.f_frsize - reserve, 0)


def hold_file(path: Path, start_bytes: int, within: Region, length: int, *, last: bool) -> HeldFile:
    """Make a file whose `length` bytes are in one piece in the range `within` of the disk.

    `start_bytes` is where the file system begins on the disk. With `last` it is the last place that
    can be had, otherwise the first that is found. Raises `LifeboatError` with nothing left where
    there is none, `OSError`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        held = _search(file, path, start_bytes, within, length, last=last)
        if held is None:
            raise LifeboatError(
                f"No {length} free bytes in one piece that the image does not write were found in "
                f"the file system of {path.parent}."
            )
        os.fsync(file)
        flush_directory(path.parent)
        return held
    except BaseException:
        release_file(path)
        raise
    finally:
        os.close(file)


def protect(path: Path) -> None:
    """Set the flag by which no program moves the file's blocks, as to defragment them.

    Raises `OSError`.
    """
    _set_immutable(path, immutable=True)


def release_file(path: Path) -> bool:
    """Remove the file, and return whether there was one. Raises `OSError`."""
    with suppress(FileNotFoundError):
        _set_immutable(path, immutable=False)
        path.unlink()
        flush_directory(path.parent)
        return True
    return False


def holds(path: Path, start_bytes: int, region: Region) -> bool:
    """Whether a file has all blocks of a region, in one piece. Raises `OSError`."""
    try:
        extents = extents_of(path, unwritten=True)
    except FileNotFoundError:
        return False
    runs = [Region(_place(extent, start_bytes), extent.length) for extent in extents]
    return any(overlap(run, region) == region for run in runs)


def in_one_piece(path: Path, start_bytes: int) -> HeldFile:
    """Return where the only extent of a file is. Raises `OSError`, also if there are several."""
    found = extents_of(path, unwritten=True)
    if len(found) != 1:
        raise OSError(errno.EINVAL, "it is not in one piece on the disk", str(path))
    (extent,) = found
    return HeldFile(path, Region(start_bytes + extent.place, extent.length), extent.offset)


def _search(
    file: int, path: Path, start_bytes: int, within: Region, length: int, *, last: bool
) -> HeldFile | None:
    """Allocate until a run lies right, and free all else."""
    size = 0
    while True:
        left = usable_bytes(path.parent)
        step = left if last else min(left, max(size, _STEP_BYTES))
        full = step <= 0
        if not full:
            try:
                _fallocate(file, _KEEP_SIZE, size, step)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                full = True
            size += step
        best = _best(extents_of(path, unwritten=True), start_bytes, within, length)
        if best is not None:
            extent, region = best
            shift = region.offset_bytes - _place(extent, start_bytes)
            kept = HeldFile(path, region, extent.offset + shift)
            _keep(file, kept, size)
            left_over = in_one_piece(path, start_bytes)
            if (
                overlap(left_over.region, region) != region
                or left_over.offset_bytes > kept.offset_bytes
            ):
                raise OSError(errno.EIO, "the file system moved its blocks", str(path))
            return kept
        if full:
            return None


def _best(
    extents: Sequence[Extent], start_bytes: int, within: Region, length: int
) -> tuple[Extent, Region] | None:
    """Return the last place in the range that is large enough, and the extent that it is in."""
    found: list[tuple[Extent, Region]] = []
    for extent in extents:
        free = overlap(Region(_place(extent, start_bytes), extent.length), within)
        if free is not None and free.length_bytes >= length:
            found.append((extent, Region(free.end_bytes - length, length)))
    return max(found, key=lambda held: held[1].offset_bytes, default=None)


def _place(extent: Extent, start_bytes: int) -> int:
    return start_bytes + extent.place


def _keep(file: int, kept: HeldFile, size: int) -> None:
    """Free all but the region."""
    os.ftruncate(file, size)  # beyond the end of a file there is nothing to punch, for ext4
    if kept.offset_bytes:
        _fallocate(file, _PUNCH_HOLE | _KEEP_SIZE, 0, kept.offset_bytes)
    os.ftruncate(file, kept.offset_bytes + kept.region.length_bytes)


def _fallocate(file: int, mode: int, offset: int, length: int) -> None:
    # Not posix_fallocate(3), which writes zeros where the file system cannot allocate.
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while call(file, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _set_immutable(path: Path, *, immutable: bool) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        buffer = bytearray(8)
        fcntl.ioctl(file, _GET_FLAGS, buffer)
        (flags,) = struct.unpack_from("=i", buffer)
        wanted = flags | _IMMUTABLE if immutable else flags & ~_IMMUTABLE
        if wanted != flags:
            struct.pack_into("=i", buffer, 0, wanted)
            fcntl.ioctl(file, _SET_FLAGS, bytes(buffer))
    finally:
        os.close(file)
