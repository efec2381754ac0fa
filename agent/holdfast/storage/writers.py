"""Who may write to a tree: nothing of it may change while it is copied for good."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from holdfast.operations.model import RequestError, Slug
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


def at_rest(tree: Path, find: FindWriters, *, overrule: bool, field: str) -> OpenForWriting | None:
    """Refuse while files of a tree may be written to, unless that is overruled.

    Return what is open; None where that cannot be determined and is overruled. Raises
    `RequestError` about a field of the request.
    """
    try:
        found = open_for_writing(tree, find)
    except (OSError, ValueError) as error:
        if overrule:
            return None
        raise RequestError(
            Slug.UNAVAILABLE,
            f"Open files of {tree} cannot be inspected ({error}); see that the helper runs, or "
            "overrule this with `even_if_open`.",
            field,
        ) from error
    if found.holders and not overrule:
        raise RequestError(
            Slug.CONFLICT,
            f"Files of {tree} are open for writing ({found.sentence}); stop what uses them, or "
            "overrule this with `even_if_open`.",
            field,
        )
    return found


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
