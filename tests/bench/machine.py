"""The facts of this machine without which a figure means nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import psutil

from tests.support.machine.disk import file_system

KIB, GIB = 1 << 10, 1 << 30
_WATCH_SECONDS = 0.02


class Device:
    """The block device below a directory, as far as sysfs shows it."""

    def __init__(self, directory: Path) -> None:
        number = directory.stat().st_dev
        self.sysfs = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        if not (self.sysfs / "inflight").exists():
            raise RuntimeError(
                f"{directory} is on no single block device, so that the end of reading ahead "
                "cannot be determined; name another directory with --dir"
            )

    @property
    def name(self) -> str:
        """The kernel's name, such as `nvme0n1`."""
        return self.sysfs.name

    def queue(self, attribute: str) -> str:
        """Read an attribute of the queue; a partition's is its disk's."""
        for place in (self.sysfs, self.sysfs.parent):
            file = place / "queue" / attribute
            if file.exists():
                return file.read_text().strip()
        return "unknown"

    def activity(self) -> tuple[int, int]:
        """Return the sectors that were read so far, and the reads that the device is at."""
        # Documentation/block/stat.rst: read sectors are the third field.
        sectors = int((self.sysfs / "stat").read_text().split()[2])
        return sectors, int((self.sysfs / "inflight").read_text().split()[0])


class PeakMemory:
    """The most memory that a process had resident, followed until it ends.

    The kernel's mark is in /proc/PID/status only while the process lives, and what wait4(2) reports
    includes the memory of the process that started it: so the mark is read again and again.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._watcher: threading.Thread | None = None

    def follow(self, pid: int) -> None:
        """Watch a process in the background; it may end at any time."""
        self._watcher = threading.Thread(target=self._watch, args=(pid,))
        self._watcher.start()

    def join(self) -> int:
        """Wait for the end of the process, and return the peak in bytes."""
        if self._watcher is not None:
            self._watcher.join()
        return self.bytes

    def _watch(self, pid: int) -> None:
        while peak := peak_memory(pid):
            self.bytes = peak
            time.sleep(_WATCH_SECONDS)


def peak_memory(pid: int) -> int:
    """Return the most memory that a process ever had resident, in bytes; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak.group(1)) * KIB if peak else 0


def facts(directory: Path) -> list[str]:
    """Describe the machine in lines for the head of the report."""
    device = Device(directory)
    memory = psutil.virtual_memory()
    return [
        f"kernel {platform.release()}, {platform.machine()}, {os.cpu_count()} cores ({_model()})",
        f"memory {memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB available",
        f"{file_system(directory)} on {device.name}: scheduler {device.queue('scheduler')}, "
        f"read_ahead_kb {device.queue('read_ahead_kb')}, nr_requests {device.queue('nr_requests')}",
        f"load average at the start {os.getloadavg()[0]:.2f}; Python {platform.python_version()}; "
        f"{fio_version()}",
    ]


def fio_version() -> str:
    """Return the version of fio, or that there is none."""
    if shutil.which("fio") is None:
        return "no fio"
    return subprocess.run(
        ["fio", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "model unknown"
