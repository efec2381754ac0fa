"""Limits on what the processes of a benchmark may read from the device, by control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import until

_TOP = Path("/sys/fs/cgroup")


class ReadLimit:
    """A control group, of version 1 or 2, whose processes read from a disk at a bounded rate."""

    def __init__(self, directory: Path, disk: str) -> None:
        self.processes = directory / "cgroup.procs"
        """The file that takes processes."""
        self._directory = directory
        self._disk = disk

    def limit(self, calls: int, rate: int) -> None:
        """Allow up to that many reads and bytes in a second; 0 is no limit."""
        if (self._directory / "io.max").exists():
            numbers = f"riops={calls or 'max'} rbps={rate or 'max'}"
            (self._directory / "io.max").write_text(f"{self._disk} {numbers}")
            return
        for name, most in (("iops", calls), ("bps", rate)):
            file = self._directory / f"blkio.throttle.read_{name}_device"
            file.write_text(f"{self._disk} {most}")


@contextmanager
def read_limit(directory: Path) -> Iterator[ReadLimit]:
    """Make a control group that can limit reads of the disk below a directory.

    Raises `RuntimeError` where there is no controller for that.
    """
    number = directory.stat().st_dev
    sysfs = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    disk = sysfs.parent if (sysfs / "partition").exists() else sysfs
    if (_TOP / "blkio" / "cgroup.procs").exists():
        top = _TOP / "blkio"
    elif "io" in _read(_TOP / "cgroup.subtree_control").split():
        top = _TOP
    else:
        raise RuntimeError("no control group here can limit reads from a device")
    group = top / f"holdfast-bench-{os.getpid()}"
    group.mkdir()
    try:
        yield ReadLimit(group, (disk / "dev").read_text().strip())
    finally:
        for pid in _read(group / "cgroup.procs").split():
            with suppress(ProcessLookupError):
                (top / "cgroup.procs").write_text(pid)
        until(lambda: _removed(group), what=f"the end of {group}")


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
        return True
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
