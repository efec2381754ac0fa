"""Who may write to a tree: nothing of it may change while it is fetched for the last time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from holdfast.privileged.open_files import Writers

FindWriters = Callable[[str], Writers]
Inode = tuple[int, int]
"""Device number and inode number."""
_MOST_NAMED = 20


@dataclass(frozen=True)
class OpenForWriting:
    """What was found."""

    holders: Sequence[str]
    """Processes with a file each, for people; at most 20."""
    uninspected: int
    """Processes whose open files could not be seen."""

    @property
    def sentence(self) -> str:
        """Name them, for the middle of a sentence."""
        return "; ".join(self.holders[:5]) + ("; and more" if len(self.holders) > 5 else "")


def open_for_writing(tree: Path, find: FindWriters) -> OpenForWriting:
    """Find the processes, other than this one, that hold a file of a tree open for writing.

    A process in a container sees a tree under another path, so files of the same file system are
    compared by inode. Raises `OSError` where that cannot be determined.
    """
    found = find(str(tree))
    others = [file for file in found.files if file.pid != os.getpid()]
    holders = {other.process: other.path for other in others if other.path}
    elsewhere = {(other.device, other.inode): other.process for other in others if not other.path}
    if elsewhere:
        holders |= {elsewhere[key]: path for key, path in _names(tree, elsewhere.keys())}
    named = [f"{process} has {path} open" for process, path in sorted(holders.items())]
    return OpenForWriting(named[:_MOST_NAMED], found.uninspected)


def _names(tree: Path, wanted: Set[Inode]) -> Iterator[tuple[Inode, str]]:
    """Yield the names in a tree of inodes that are wanted; follows no symbolic link."""
    numbers = {number for _, number in wanted}
    directories = [str(tree)]
    while directories:
        try:
            entries = os.scandir(directories.pop())
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                elif entry.inode() in numbers:
                    status = entry.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_ino) in wanted:
                        yield (status.st_dev, status.st_ino), entry.path
