"""A disk after a power cut: every write that was flushed, and some of those that were not."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from tests.oracles.powerloss.power_cut import cut
from tests.vm.reimage.node import Disks

LOG = "writes.log"
"""The name of the log, beside the disk."""


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


def after_cut(before: Disks, log: Path, until: int, directory: Path, keep: random.Random) -> Disks:
    """Make the disks as a cut leaves them after `until` entries of the log of `before`'s root.

    Of the writes after the last flush, `keep` decides which the disk had done.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = directory / "root.raw"
    convert = ("qemu-img", "convert", "-O", "raw", str(before.root), str(raw))
    subprocess.run(convert, check=True)
    cut(log, raw, until, keep)
    root = directory / "root.qcow2"
    subprocess.run(
        ("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(root)),
        check=True,
    )
    data = tuple(directory / disk.name for disk in before.data)
    for original, copy in zip(before.data, data, strict=True):
        shutil.copy(original, copy)
    return Disks(root, data)
