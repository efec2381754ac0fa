"""Collects what a node's new system takes over from its old one."""

from __future__ import annotations

import base64
import fnmatch
import grp
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.node.paths.beneath import open_directory_beneath, read_file_beneath
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.models import CarriedItem, IdentityName

MAX_FILE = 1 << 20
"""Bytes of one file."""
MAX_ALL = 16 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACES: dict[IdentityName, tuple[str, tuple[str, ...]]] = {
    "ssh_host_keys": ("/etc/ssh", ("ssh_host_*_key", "ssh_host_*_key.pub")),
    "machine_id": ("/etc", ("machine-id",)),
    "hostname": ("/etc", ("hostname",)),
    "holdfast": ("/etc/holdfast", ("*",)),
}
_NEVER = frozenset({"/etc/holdfast/image-id", "/etc/holdfast/reimaged.json"})
"""These describe the image and the last re-imaging; the new system has its own."""


@dataclass
class Identity:
    """All of it, as identity.json wants it."""

    items: list[CarriedItem] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    directories: list[dict[str, Any]] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the content of identity.json."""
        return {"files": self.files, "directories": self.directories, "remove": self.remove}


def collect(
    machine: MachineFiles, names: Sequence[IdentityName], *, contents: bool = True
) -> Identity:
    """Collect the files of these items; without `contents` only which they are.

    Nothing is followed out of the places named: symbolic links and special files are left out; an
    item's `problems` list them, and what cannot be read.
    """
    found = Identity()
    for name in dict.fromkeys(names):
        place, patterns = _PLACES[name]
        item = CarriedItem(name=name, paths=[])
        _collect_item(machine, found, item, place, patterns, contents=contents)
        found.items.append(item)
        if not item.paths:
            item.problems.append(f"There is nothing of {name} in {place}.")
        elif name == "ssh_host_keys":
            # Not a key of an algorithm that this node never had beside those that it has.
            found.remove += [f"{place}/{pattern}" for pattern in patterns]
    return found


def _collect_item(
    machine: MachineFiles,
    found: Identity,
    item: CarriedItem,
    place: str,
    patterns: tuple[str, ...],
    *,
    contents: bool,
) -> None:
    try:
        directory = _open_directory(machine, place)
    except OSError as error:
        item.problems.append(f"{place} cannot be inspected: {error.strerror}.")
        return
    try:
        whole = patterns == ("*",)
        if whole:
            found.directories.append(_owner(place, os.fstat(directory)))
        for path, status, parent in _walk(directory, place, item, deep=whole):
            if path in _NEVER or not any(
                fnmatch.fnmatch(os.path.basename(path), pattern)  # noqa: PTH119 - text, not a file
                for pattern in patterns
            ):
                continue
            if stat.S_ISDIR(status.st_mode):
                if whole:
                    found.directories.append(_owner(path, status))
                continue
            _collect_file(found, item, path, status, parent, contents=contents)
    finally:
        os.close(directory)


def _collect_file(
    found: Identity,
    item: CarriedItem,
    path: str,
    status: os.stat_result,
    parent: int,
    *,
    contents: bool,
) -> None:
    if not stat.S_ISREG(status.st_mode):
        item.problems.append(f"{path} is not a regular file and is not carried over.")
        return
    if not contents:
        item.paths.append(path)
        return
    try:
        content = read_file_beneath(parent, os.path.basename(path), MAX_FILE)  # noqa: PTH119
    except OSError as error:
        item.problems.append(f"{path} cannot be carried over: {error.strerror}.")
        return
    if sum(len(file["content"]) for file in found.files) + len(content) > MAX_ALL:
        item.problems.append(f"{path} is not carried over: the identity is above {MAX_ALL} bytes.")
        return
    found.files.append(_owner(path, status) | {"content": base64.b64encode(content).decode()})
    item.paths.append(path)


def _walk(
    directory: int, place: str, item: CarriedItem, *, deep: bool
) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield path, status and the directory it was found in, a directory before what is in it."""
    for name in sorted(os.listdir(directory)):
        path = f"{place}/{name}"
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield path, status, directory
        if deep and stat.S_ISDIR(status.st_mode):
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
            except OSError as error:
                item.problems.append(f"{path} cannot be inspected: {error.strerror}.")
                continue
            try:
                yield from _walk(inner, path, item, deep=True)
            finally:
                os.close(inner)


def _open_directory(machine: MachineFiles, place: str) -> int:
    """Open a directory without following a link anywhere below the machine's root."""
    top = os.open(machine.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_directory_beneath(top, place)
    finally:
        os.close(top)


def _owner(path: str, status: os.stat_result) -> dict[str, Any]:
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return {
        "path": path,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "user": user,
        "group": group,
    }
