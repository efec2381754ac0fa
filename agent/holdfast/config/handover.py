"""`holdfast prepare`: root makes the state directory, or gives it to the daemon's user on proof.

A data volume may come from anywhere, and may belong to the datastore's user. Nothing that is found
there decides what root does: root hands over only what it has just made, or what a file of its own
proves to be this machine's.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.config.settings import Settings
from holdfast.config.statedir import (
    MARKER,
    StateDirError,
    explain_failure,
    locate_state_dir,
)
from holdfast.node.paths.beneath import (
    open_directory_beneath,
    read_file,
    read_file_beneath,
)
from holdfast.node.paths.directories import DirectoryIdentity, identify_directory
from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.storage.atomic_files import replace_file

RECORD = Path("/var/lib/holdfast-helper/handed-over.json")
"""Made by root: for which re-imaging the directory was given away already."""
_MOST_BYTES = 1 << 20
_NONCE = re.compile(r"[0-9a-f]{32}")


class _NotProvenError(Exception):
    """Nothing proves that a directory is this machine's. The text is a sentence."""


def give_state_dir(
    settings: Settings, uid: int, gid: int, marker: Path = MARKER, record: Path = RECORD
) -> str:
    """Make the state directory for a user, or hand over that of the previous system; return which.

    Given away, once for each re-imaging, is only the directory whose owner, inode and file system
    were noted when that was armed: `marker`, which the imager left for root alone, has them, and
    `record` remembers that it was done. Raises `StateDirError`; nothing was changed, unless the
    message states otherwise.
    """
    path, degraded = locate_state_dir(settings)
    if degraded is not None:
        return degraded
    try:
        parent = _open_parent(settings, path)
    except OSError as error:
        raise StateDirError(explain_failure(path, error)) from error
    try:
        try:
            directory = open_directory_beneath(parent, path.name)
        except FileNotFoundError:
            _make(parent, path.name, uid, gid)
            return f"{path} was made for user {uid}."
        try:
            owner = os.fstat(directory).st_uid
            if owner == uid:
                return f"{path} is there."
            try:
                nonce = _prove(directory, path, marker, record)
            except (_NotProvenError, OSError) as error:
                raise StateDirError(_refusal(path, owner, uid, error)) from error
            record.parent.mkdir(mode=0o755, exist_ok=True)
            # Before the first change: what is interrupted is finished by a person.
            replace_file(record, json.dumps({"nonce": nonce}).encode() + b"\n", 0o600)
            _give(directory, owner, uid, gid)
            return f"{path} is user {uid}'s now: it was the state of the system before."
        finally:
            os.close(directory)
    except OSError as error:
        raise StateDirError(explain_failure(path, error)) from error
    finally:
        os.close(parent)


def _open_parent(settings: Settings, path: Path) -> int:
    """Open the parent of the directory, made where needed. Raises `OSError`.

    Within a root no link is followed: another user may have put it there.
    """
    root = next((root for root in settings.roots if path.is_relative_to(root)), None)
    if root is None or path == root:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in path.relative_to(root).parts[:-1]:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=current)
            inner = open_directory_beneath(current, part)
        finally:
            os.close(current)
        current = inner
    return current


def _make(parent: int, name: str, uid: int, gid: int) -> None:
    """Make an empty directory of a user's; under its name it is theirs from the first moment."""
    partial = f".{name.lstrip('.')}.partial"
    with suppress(FileNotFoundError):
        os.rmdir(partial, dir_fd=parent)
    os.mkdir(partial, 0o700, dir_fd=parent)
    directory = open_directory_beneath(parent, partial)
    try:
        # The parent's owner could have put another directory there meanwhile.
        if os.fstat(directory).st_uid != os.geteuid() or os.listdir(directory):  # noqa: PTH208 - a descriptor
            raise OSError(1, "another process changes its parent directory", partial)
        os.fchown(directory, uid, gid)
        os.fchmod(directory, 0o700)
        os.rename(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    finally:
        os.close(directory)


def _prove(directory: int, path: Path, marker: Path, record: Path) -> str:
    """Return the number of the re-imaging that this directory is of.

    Raises `_NotProvenError` if it is of none, or was given away for it, and `OSError`.
    """
    written = _marker(marker)
    nonce = written.get("nonce")
    try:
        noted = DirectoryIdentity.model_validate(written.get("state_dir"))
    except ValidationError:
        noted = None
    if noted is None or not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise _NotProvenError(f"{marker} does not name the directory that was the state.")
    found = identify_directory(directory, path, MachineFiles())
    if not found.same_place(noted):
        raise _NotProvenError(f"It is another directory than the one that {marker} names.")
    if found.uid != noted.uid:
        raise _NotProvenError(f"{marker} records that it belonged to user {noted.uid}.")
    try:
        job = json.loads(read_file_beneath(directory, "reimage/job.json", _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        job = None
    proof = (nonce, written.get("secret"))
    if not isinstance(job, dict) or (job.get("nonce"), job.get("secret")) != proof:
        raise _NotProvenError("It has no record of the re-imaging that wrote this system.")
    with suppress(FileNotFoundError):
        if _root_json(record).get("nonce") == nonce:
            raise _NotProvenError("It was handed over once already after that re-imaging.")
    return nonce


def _marker(marker: Path) -> Mapping[str, Any]:
    try:
        status = marker.lstat()
        content = _root_json(marker)
    except FileNotFoundError:
        raise _NotProvenError("This system was not written by holdfast's imager.") from None
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _NotProvenError(f"{marker} can be read by others than root, so it proves nothing.")
    return content


def _root_json(path: Path) -> Mapping[str, Any]:
    """Read a file that only root can write. Raises `_NotProvenError`, `OSError`."""
    content = read_file(path, _MOST_BYTES)
    why = why_unguarded(path, {0, os.geteuid()})
    if why is not None:
        raise _NotProvenError(f"{path} is not believed: {why}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _NotProvenError(f"{path} cannot be understood.") from None
    if not isinstance(found, dict):
        raise _NotProvenError(f"{path} cannot be understood.")
    return found


def _give(directory: int, owner: int, uid: int, gid: int) -> None:
    """Give a directory and what its owner has in it to another user. Raises `OSError`.

    From the inside out, by descriptors: at the end it is theirs. What belongs to another user, has
    another name elsewhere as root's, or is on another file system, is left unchanged.
    """
    device = os.fstat(directory).st_dev
    for _, names, files, where in os.fwalk(dir_fd=directory, topdown=False):
        if os.fstat(where).st_dev != device:
            continue
        for name in (*names, *files):
            status = os.stat(name, dir_fd=where, follow_symlinks=False)
            linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
            if status.st_dev == device and (
                status.st_uid == owner or (status.st_uid == 0 and not linked)
            ):
                os.chown(name, uid, gid, dir_fd=where, follow_symlinks=False)
    os.fchown(directory, uid, gid)
    os.fchmod(directory, 0o700)


def _refusal(path: Path, owner: int, uid: int, error: Exception) -> str:
    why = str(error) if isinstance(error, _NotProvenError) else f"{error}."
    return (
        f"The state directory {path} belongs to user {owner} and is not given to user {uid}: {why} "
        f"If it is this machine's, run `chown -R {uid}: {path}` and restart holdfast; otherwise "
        "move it away."
    )
