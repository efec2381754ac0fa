"""File systems and control groups of a test's own, gone at its end whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import until

_CGROUP = Path("/sys/fs/cgroup")


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def mounted(directory: Path, *options: str | Path) -> Iterator[Path]:
    """Mount on a directory or an existing file; skips the test where this is not allowed."""
    if not directory.is_file():
        directory.mkdir(exist_ok=True)
    done = _run("mount", *options, directory)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        # A process may still be in it; detached, it goes as soon as none is.
        done = _run("umount", "--lazy", directory)
        assert done.returncode == 0, done.stderr


@contextmanager
def tmpfs(directory: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of `size` bytes."""
    with mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "none") as place:
        yield place


@contextmanager
def ext4(directory: Path, size: int) -> Iterator[Path]:
    """Mount a new ext4 of `size` bytes, kept in a file beside the directory."""
    image = directory.with_name(directory.name + ".img")
    with image.open("wb") as file:
        file.truncate(size)
    try:
        made = _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", image)
        assert made.returncode == 0, made.stderr
        with mounted(directory, "-o", "loop", image) as place:
            yield place
    finally:
        image.unlink()


@contextmanager
def btrfs(directory: Path) -> Iterator[Path]:
    """Mount a new btrfs, kept in a file beside the directory; skips the test without its tools."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("there is no mkfs.btrfs here")
    image = directory.with_name(directory.name + ".img")
    with image.open("wb") as file:
        file.truncate(256 << 20)
    try:
        made = _run("mkfs.btrfs", "--quiet", "--force", image)
        assert made.returncode == 0, made.stderr
        with mounted(directory, "-t", "btrfs", "-o", "loop", image) as place:
            yield place
    finally:
        image.unlink()


def subvolume(path: Path, *, snapshot_of: Path | None = None) -> Path:
    """Make a btrfs subvolume, or a read-only snapshot of one."""
    how = ["create"] if snapshot_of is None else ["snapshot", "-r", str(snapshot_of)]
    made = _run("btrfs", "subvolume", *how, path)
    assert made.returncode == 0, made.stderr
    return path


@contextmanager
def overlay(directory: Path, lower: Path, upper: Path, *options: str) -> Iterator[Path]:
    """Mount an overlay of two directories; its working directory goes beside `upper`."""
    work = upper.with_name(upper.name + ".work")
    work.mkdir(exist_ok=True)
    layers = ",".join([f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}", *options])
    with mounted(directory, "-t", "overlay", "-o", layers, "overlay") as place:
        yield place


class MemoryGroup:
    """A control group with a limit on memory."""

    def __init__(self, directory: Path, top: Path) -> None:
        self.directory = directory
        self.name = f"cgroup /{directory.relative_to(top)}"
        self._old = (directory / "memory.limit_in_bytes").exists()

    def limit(self, size: int) -> None:
        """Limit it to `size` bytes."""
        name = "memory.limit_in_bytes" if self._old else "memory.max"
        (self.directory / name).write_text(str(size))

    def add(self, pid: int) -> None:
        """Move a process into it; what it loads from now on is charged to the group."""
        (self.directory / "cgroup.procs").write_text(str(pid))


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make a control group for memory, of version 1 or 2; skips the test where that cannot be."""
    old, unified = _CGROUP / "memory", _CGROUP
    if (old / "memory.limit_in_bytes").exists():
        top = old
    elif "memory" in _read(unified / "cgroup.subtree_control").split():
        top = unified
    else:
        pytest.skip("there is no memory controller for control groups here")
    directory = top / f"holdfast-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield MemoryGroup(directory, top)
    finally:
        for pid in _read(directory / "cgroup.procs").split():
            with suppress(ProcessLookupError):
                (top / "cgroup.procs").write_text(pid)
        # What was charged to it keeps it busy for a moment.
        until(lambda: _removed(directory), what=f"the end of {directory}")


@dataclass(frozen=True)
class PressureGroup:
    """A control group that reports its pressure."""

    directory: Path
    name: str
    """Its name relative to where control groups are mounted."""


@contextmanager
def pressure_group() -> Iterator[PressureGroup]:
    """Make a control group of version 2; skips the test where that cannot be."""
    tops = (_CGROUP, _CGROUP / "unified")
    top = next((top for top in tops if (top / "cgroup.controllers").exists()), None)
    if top is None:
        pytest.skip("there are no control groups of version 2 here")
    name = f"holdfast-test-{os.getpid()}"
    directory = top / name
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (directory / "io.pressure").exists():
            pytest.skip("this kernel does not report the pressure of control groups")
        yield PressureGroup(directory, name)
    finally:
        for pid in _read(directory / "cgroup.procs").split():
            with suppress(ProcessLookupError):
                (top / "cgroup.procs").write_text(pid)
        until(lambda: _removed(directory), what=f"the end of {directory}")


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
