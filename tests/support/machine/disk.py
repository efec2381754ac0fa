"""Places to put test data where the page cache behaves as on a server: not on tmpfs."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from pathlib import Path

# On these, pages cannot be evicted and read back, or have no page cache of the usual kind.
UNSUITABLE = frozenset({"tmpfs", "ramfs", "hugetlbfs", "zfs", "devtmpfs"})


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, as in /proc/self/mountinfo."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kind = ""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        if left.split(" ")[2] == wanted:
            kind = right.split(" ")[0]
    return (
        kind
        or subprocess.run(
            ["stat", "--file-system", "--format=%T", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )


def real_directory() -> Path:
    """Return a writable directory on a disk file system.

    `HOLDFAST_TEST_DIR` comes first, then the usual temporary directories, then the checkout's own
    `target/`. Raises `RuntimeError` where none of them is on a disk.
    """
    checkout = Path(__file__).resolve().parents[3] / "target"
    named = os.environ.get("HOLDFAST_TEST_DIR")
    candidates = [Path(named)] if named else [Path(tempfile.gettempdir()), Path("/var/tmp")]
    for candidate in [*candidates, checkout]:
        candidate.mkdir(parents=True, exist_ok=True)
        if os.access(candidate, os.W_OK) and file_system(candidate) not in UNSUITABLE:
            return candidate
    raise RuntimeError(
        "found no directory on a disk file system; set HOLDFAST_TEST_DIR to a writable one"
    )


def write_file(path: Path, size: int, *, seed: int = 0) -> Path:
    """Write `size` reproducible bytes to `path`, through to the disk so that its pages are clean.

    Parent directories are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    block = random.Random(seed).randbytes(min(size, 1 << 20))
    with path.open("wb") as file:
        left = size
        while left > 0:
            left -= file.write(block[: min(left, len(block))])
        file.flush()
        os.fsync(file.fileno())
    return path


def drop(path: Path) -> None:
    """Ask the kernel to drop a file's clean pages, independently of holdfast."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def read_all(path: Path) -> int:
    """Read a file to its end, which makes all its pages resident; answer its size in bytes."""
    total = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            total += len(block)
    return total
