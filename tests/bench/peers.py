"""The programs that holdfast is measured beside, run as whole processes."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.tree import Tree

HAPPYCACHE_RECORD = ".happycache.gz"
_PART = 1 << 16
"""Pages of a file that one process asks about at a time."""


@dataclass(frozen=True)
class Timed:
    """One run of a process."""

    seconds: float
    output: str

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s"


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    started_as: Callable[[int], object] = lambda _: None,
) -> Timed:
    """Run a command to its end; raises `RuntimeError` with its output if it fails.

    `started_as` receives the process id.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        started_as(process.pid)
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait()
        seconds = time.monotonic() - started
    if process.returncode != 0:
        raise RuntimeError(f"`{command[0]}` ended with {process.returncode}: {output[-2000:]}")
    return Timed(seconds, output)


@dataclass(frozen=True)
class Happycache:
    """The original, https://github.com/hashbrowncipher/happycache, built by the reader."""

    program: Path

    @staticmethod
    def find() -> Happycache | None:
        """Take it from $HAPPYCACHE or the PATH; None where it is not."""
        named = os.environ.get("HAPPYCACHE") or shutil.which("happycache")
        if named is None:
            return None
        program = Path(named).resolve()
        if not os.access(program, os.X_OK):
            raise RuntimeError(f"HAPPYCACHE={named} is not a program")
        return Happycache(program)

    def dump(self, root: Path) -> Timed:
        """Dump a tree; the record is left in its root, as the program does it."""
        return run([self.program, "dump"], cwd=root)

    def take_record(self, root: Path, to: Path) -> int:
        """Move the record out of the tree and answer its size in bytes."""
        shutil.move(root / HAPPYCACHE_RECORD, to)
        return to.stat().st_size

    def load(self, root: Path, record: Path) -> Timed:
        """Load a tree from a record; the program ends while the device is still reading."""
        return run([self.program, "load", "32", record], cwd=root)


def happycache_files(record: Path) -> list[str]:
    """Return the files of happycache's record in their order, relative to its root."""
    lines = gzip.decompress(record.read_bytes()).decode(errors="surrogateescape").splitlines()
    return list(dict.fromkeys(line[2:] for line in lines if line.startswith("./")))


@dataclass(frozen=True)
class KernelCalls:
    """What the kernel's calls alone take for a dump: a program in C (`kernel_calls.c`)."""

    program: Path
    parts: Path

    @staticmethod
    def build(work: Path, tree: Tree) -> KernelCalls | None:
        """Compile it for a tree, whose large files are cut; None where there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        program, parts = work / "kernel_calls", work / "kernel_calls.parts"
        source = Path(__file__).with_name("kernel_calls.c")
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)
        lines = (
            f"{first} {min(_PART, file.pages - first)} {file.path}\n"
            for file in sorted(tree.files, key=lambda file: -file.size)
            for first in range(0, file.pages, _PART)
        )
        parts.write_text("".join(lines))
        return KernelCalls(program, parts)

    def run(self, processes: int) -> Timed:
        """Ask about every page of the tree, from that number of processes."""
        return run([self.program, str(processes), self.parts])


def vmtouch_count(root: Path) -> Timed:
    """Let vmtouch count the resident pages of a tree, and record nothing."""
    return run(["vmtouch", "-q", root])


def vmtouch_load(root: Path) -> Timed:
    """Let vmtouch read a whole tree into memory."""
    return run(["vmtouch", "-t", "-q", root])


def fincore(paths: Sequence[str]) -> Timed:
    """Let fincore count the resident pages of files; as many processes as the arguments need."""
    total = 0.0
    for start in range(0, len(paths), 10_000):
        part = run(["fincore", "--bytes", "--noheadings", *paths[start : start + 10_000]])
        total += part.seconds
    return Timed(total, "")


def fio_direct(path: str, seconds: int) -> float:
    """Measure how fast the device gives a file past the page cache, in bytes per second."""
    found = run(
        [
            "fio",
            "--name=direct",
            f"--filename={path}",
            "--readonly",
            "--rw=read",
            "--direct=1",
            "--bs=1M",
            "--iodepth=16",
            "--ioengine=libaio",
            "--time_based",
            f"--runtime={seconds}",
            "--output-format=json",
        ]
    )
    rate = re.search(r'"bw_bytes"\s*:\s*([1-9]\d*)', found.output)
    if rate is None:
        raise RuntimeError(f"fio gave no rate: {found.output[-500:]}")
    return float(rate.group(1))
