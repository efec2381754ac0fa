"""What a disk has after a power cut: every write that was flushed, and some of those that were not.

QEMU's `blklogwrites` records writes and flushes in the format of the kernel's dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst; `struct log_write_super` and `_entry` in
drivers/md/dm-log-writes.c).
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.reimage.node import Disks

LOG = "writes.log"
"""The name of the log, beside the disk."""

_SECTOR = 512
_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")  # magic, version, entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of data
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True)
class Write:
    """One entry of a log."""

    offset: int
    length: int
    data_at: int
    """Where the data are in the log; of no meaning for a discard."""
    flags: int

    @property
    def flush(self) -> bool:
        """Whether everything before it is on the medium once it is done."""
        return bool(self.flags & _FLUSH)


def logged(root: Path) -> tuple[str, ...]:
    """Options for a root disk that records, beside it, what is written to it."""
    log = root.with_name(LOG)
    log.write_bytes(b"")
    return (
        "-blockdev",
        f"driver=qcow2,node-name=below,file.driver=file,file.filename={root}",
        "-blockdev",
        f"driver=file,node-name=log,filename={log}",
        "-blockdev",
        "driver=blklogwrites,node-name=root,file=below,log=log,log-sector-size=512,"
        "log-super-update-interval=1",
    )


def entries(log: Path) -> int:
    """How many entries a log has so far, as of the last flush."""
    with log.open("rb") as file:
        start = file.read(_SUPER.size)
    return int(_SUPER.unpack(start)[2]) if len(start) == _SUPER.size else 0


def writes(log: Path) -> Iterator[Write]:
    """Read a log. Raises `ValueError` if it is none."""
    with log.open("rb") as file:
        magic, version, count, sector = _SUPER.unpack(file.read(_SUPER.size))
        if (magic, version, sector) != (_MAGIC, 1, _SECTOR):
            raise ValueError(f"{log} is no log of writes: {magic:#x} {version} {sector}")
        at = _SECTOR
        for _ in range(count):
            file.seek(at)
            first, sectors, flags, length = _ENTRY.unpack(file.read(_ENTRY.size))
            at += _SECTOR
            yield Write(first * _SECTOR, sectors * _SECTOR, at, flags)
            if not flags & _DISCARD:
                at += max(length, 0 if flags & _MARK else sectors * _SECTOR)


def after_cut(before: Disks, log: Path, until: int, directory: Path, keep: random.Random) -> Disks:
    """Make the disks as a cut leaves them after `until` entries of the log of `before`'s root.

    Of the writes after the last flush, `keep` decides one by one which the disk had done.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = directory / "root.raw"
    convert = ("qemu-img", "convert", "-O", "raw", str(before.root), str(raw))
    subprocess.run(convert, check=True)
    taken = [write for number, write in enumerate(writes(log)) if number < until]
    last = max((number for number, write in enumerate(taken) if write.flush), default=-1)
    with log.open("rb") as source, raw.open("r+b") as disk:
        for number, write in enumerate(taken):
            lost = number > last and not write.flags & _FUA and keep.random() < 0.5
            if lost or not write.length or write.flags & (_DISCARD | _MARK):
                continue
            source.seek(write.data_at)
            disk.seek(write.offset)
            disk.write(source.read(write.length))
    root = directory / "root.qcow2"
    subprocess.run(
        ("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(root)),
        check=True,
    )
    data = tuple(directory / one.name for one in before.data)
    for one, copy in zip(before.data, data, strict=True):
        shutil.copy(one, copy)
    return Disks(root, data)
