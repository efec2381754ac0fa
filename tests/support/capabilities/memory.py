"""A node with a root in memory: a tmpfs that is lost as by a boot."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from tests.support.daemon.harness import Daemon
from tests.support.machine.mounts import tmpfs

MIB = 1 << 20


@dataclass
class MemoryNode:
    """A daemon with one root in memory."""

    daemon: Daemon
    root: Path

    def lose(self, size: int = 64 * MIB) -> None:
        """Replace the tmpfs by an empty one, as a boot does."""
        subprocess.run(["umount", self.root], check=True)
        options = f"size={size}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.root], check=True)

    def save(self, **body: Any) -> dict[str, Any]:
        """Save the root, which must succeed; return the result."""
        return self.daemon.run("/v1/memory/saves", body)

    def restore(self, **body: Any) -> dict[str, Any]:
        """Restore the latest save, which must succeed; return the result."""
        return self.daemon.run("/v1/memory/restores", body)

    def refused(self, path: str, **body: Any) -> dict[str, Any]:
        """Start an operation, which must be refused or fail; return the problem."""
        answer = self.daemon.http.post(f"/v1/memory/{path}", json=body)
        if answer.status_code != 202:
            problem: dict[str, Any] = answer.json()
            return problem
        operation = self.daemon.finish(answer.json())
        assert operation["state"] == "failed", operation
        failed: dict[str, Any] = operation["error"]
        return failed

    @property
    def saves(self) -> Path:
        """The directory that has the saves."""
        return self.daemon.state_dir / "memory"

    def stored(self, save: str, name: str = "data") -> Path:
        """Return a file of a save."""
        return self.saves / save / name


@contextmanager
def memory_node(
    start_daemon: Callable[..., Daemon], directory: Path, *, size: int = 64 * MIB, **settings: Any
) -> Iterator[MemoryNode]:
    """Mount a tmpfs and start a daemon that has it as its root in memory."""
    with tmpfs(directory / "memory", size) as root:
        settings = {"pagecache": {"reserve_bytes": 0}} | settings
        yield MemoryNode(start_daemon(memory={"roots": [str(root)]}, **settings), root)


def fill(root: Path) -> None:
    """Make files of all kinds that a save keeps."""
    (root / "segments" / "deep").mkdir(parents=True)
    (root / "segments" / "deep" / "small").write_bytes(b"x" * 5000)
    (root / "segments" / "deep").chmod(0o2750)
    # In the order of bytes it is between the directory and what is in it.
    (root / "segments-2").write_bytes(b"beside")
    (root / "empty").touch(mode=0o604)
    with (root / "sparse").open("wb") as file:
        file.write(os.urandom(3 * MIB + 17))
        file.seek(180 * MIB)
        file.write(os.urandom(MIB + 5))
        file.truncate(200 * MIB + 3)
    os.link(root / "segments" / "deep" / "small", root / "other name")
    (root / b"not\xffutf8".decode(errors="surrogateescape")).write_bytes(b"name")
    for number, path in enumerate(sorted(root.rglob("*"))):
        if os.geteuid() == 0:
            os.chown(path, 1000 + number % 3, 2000 + number % 2)
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1001))


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Describe everything below a directory: what a restore must bring back."""
    found: dict[str, tuple[Any, ...]] = {}
    names: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        if stat.S_ISREG(status.st_mode):
            # The content, how much of it takes memory, and which names are one file.
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            first = names.setdefault(status.st_ino, name)
            about: tuple[Any, ...] = (content, status.st_size, status.st_blocks, first)
        else:
            about = ()
        kept = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        found[name] = (*kept, *about, *attributes(path))
    return found


def attributes(path: Path) -> list[tuple[str, bytes]]:
    """Return the extended attributes of a file."""
    return sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))


def read_index(path: Path) -> list[dict[str, Any]]:
    """Read the lines of an index, without its trailer."""
    text = subprocess.run(["zstd", "-qdc", path], capture_output=True, check=True).stdout
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return lines[:-1]


def write_index(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write an index with a trailer that fits it, as an enemy would."""
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    trailer = {"files": 1, "bytes": 1, "xxh64": xxhash.xxh64(text).hexdigest()}
    text += json.dumps(trailer).encode() + b"\n"
    packed = subprocess.run(["zstd", "-qc"], input=text, capture_output=True, check=True)
    path.write_bytes(packed.stdout)
