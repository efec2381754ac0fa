"""Writes archives of the format newc, which the kernel unpacks as an initramfs.

As in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A name in the archive: relative, of plain parts. A directory comes before what is in it."""

    name: str
    mode: int
    """With its type."""
    content: bytes | Path = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """Make a directory."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, content: bytes | Path, mode: int = 0o600) -> Entry:
    """Make a regular file; content passed as a path is read when it is written."""
    return Entry(name, stat.S_IFREG | mode, content)


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Make a device node."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield the archive, everything in it root's, and of the same bytes each time.

    Raises `OSError` if a file given as a path cannot be read.
    """
    for number, entry in enumerate(entries, start=1):
        content = entry.content
        if isinstance(content, bytes):
            yield _header(number, entry, len(content)) + content + _padding(len(content))
            continue
        with content.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            yield _header(number, entry, size)
            left = size
            while left:
                part = stream.read(min(_CHUNK, left))
                if not part:
                    raise OSError(5, "it became shorter while it was read", str(content))
                yield part
                left -= len(part)
        yield _padding(size)
    yield _header(0, Entry("TRAILER!!!", 0), 0)


def size_of(entries: Sequence[Entry]) -> int:
    """Return the size of the archive in bytes, without making it."""
    total = len(_header(0, Entry("TRAILER!!!", 0), 0))
    for entry in entries:
        content = entry.content
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        total += len(_header(0, entry, size)) + size + len(_padding(size))
    return total


def _header(inode: int, entry: Entry, size: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (inode, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return head + _padding(len(head))


def _padding(size: int) -> bytes:
    return bytes(-size % 4)
