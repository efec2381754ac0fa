"""Programs that hash trees of files, run as whole processes, and the device's own speed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import Timed, run
from tests.bench.tree import KIB, MIB

_PATTERN = re.compile(r"^([0-9a-f]{16}) {2}(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class DirectRead:
    """One way in which fio reads a file past the page cache."""

    depth: int
    block: int
    huge: bool
    """Whether its buffers are in huge pages, as the kernel gives them to a process that asks.

    The device then has one range of memory to write to where it would have hundreds, and behind a
    virtual machine's device that can double its speed. By itself fio does not ask.
    """

    def __str__(self) -> str:
        return f"fio {self.block // KIB} KiB x {self.depth}{' in huge pages' * self.huge}"

    def rate(self, path: str) -> float:
        """Read the file from its start to its end; answer bytes per second."""
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if self.huge else {}
        done = subprocess.run(
            [
                "fio",
                "--name=direct",
                f"--filename={path}",
                "--readonly",
                "--rw=read",
                "--direct=1",
                f"--bs={self.block}",
                f"--iodepth={self.depth}",
                "--ioengine=io_uring",
                "--output-format=json",
                *(["--iomem_align=2M"] if self.huge else []),
            ],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | tunables,
        )
        # What it has to warn of stands before the document.
        found = json.loads(done.stdout[done.stdout.index("{") :])
        return float(found["jobs"][0]["read"]["bw_bytes"])


DIRECT_READS = tuple(
    DirectRead(depth, block, huge)
    for huge in (False, True)
    for depth in (8, 16, 32)
    for block in (512 * KIB, MIB, 2 * MIB)
)


@dataclass(frozen=True)
class Peer:
    """A program that digests every file of a tree, as people run it."""

    name: str
    command: str
    """For a shell in the root of the tree."""
    program: str

    @property
    def here(self) -> bool:
        """Whether the program is installed."""
        return shutil.which(self.program) is not None

    def digest(self, root: Path) -> Timed:
        """Digest the whole tree."""
        return run(["bash", "-o", "pipefail", "-c", self.command], cwd=root)


def _xargs(processes: int, program: str) -> Peer:
    # Few files a process, so that the largest one does not wait behind others for its turn.
    return Peer(
        f"xargs -P{processes} {program}",
        f"find . -type f -print0 | xargs -0 -n16 -P{processes} {program}",
        program,
    )


XXH64SUM = tuple(_xargs(processes, "xxh64sum") for processes in (2, 4, 16))
B3SUM = Peer("b3sum", "find . -type f -print0 | xargs -0 -n100000 b3sum", "b3sum")
OTHERS = (
    _xargs(16, "xxh128sum"),
    _xargs(16, "sha256sum"),
    Peer("hashdeep -c md5", "hashdeep -c md5 -r . 2>/dev/null", "hashdeep"),
    Peer("rhash --crc32c", "rhash --crc32c -r .", "rhash"),
)


def sums(output: str) -> dict[str, str]:
    """Parse the output of xxh64sum or an export: the digest of each path."""
    return {path: digest for digest, path in _PATTERN.findall(output)}


def versions() -> str:
    """Name the programs that are here with their versions."""
    asks: dict[str, Callable[[], Timed]] = {
        "xxh64sum": lambda: run(["xxh64sum", "--version"]),
        "b3sum": lambda: run(["b3sum", "--version"]),
        "hashdeep": lambda: run(["hashdeep", "-V"]),
        "rhash": lambda: run(["rhash", "--version"]),
    }
    found = []
    for program, ask in asks.items():
        if shutil.which(program) is None:
            found.append(f"no {program}")
        else:
            number = re.search(r"\d+(\.\d+)+", ask().output)
            found.append(f"{program} {number.group() if number else ''}".rstrip())
    return ", ".join(found)
