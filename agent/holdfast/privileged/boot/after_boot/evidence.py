"""Compares what the imager put into this system with what is there now; only root can read it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from holdfast.node.paths.beneath import read_all, read_file
from holdfast.node.paths.files import read_text
from holdfast.node.paths.guarded import why_unguarded
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.after_boot.blame import Logs
from holdfast.privileged.boot.after_boot.progress import boot_progress
from holdfast.privileged.boot.lifeboat.parts import Region
from holdfast.privileged.boot.models import FileEvidence, IdentityEvidence, PlacedFile

MARKER = "/etc/holdfast/reimaged.json"
"""Left by the imager in the system that it wrote; root's."""
_MARKER_BYTES = 1 << 20
_MAX_FILE = 16 << 20
_HOSTNAME = "/etc/hostname"
_LABEL = "security.selinux"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Identity(BaseModel, defer_build=True):
    files: list[PlacedFile] | None = None


class _Lifeboat(BaseModel, defer_build=True):
    offset_bytes: int
    length_bytes: int


class _Marker(BaseModel, defer_build=True):
    nonce: str
    identity: _Identity
    lifeboat: _Lifeboat | None = None


def identity_evidence(machine: MachineFiles, *, compare: bool) -> IdentityEvidence:
    """Compare each carried file with the marker, and the kernel's hostname with its file.

    Without `compare` only how far the boot is. What cannot be read is in `problem`. Raises
    `OSError` where the state of the boot cannot be determined.
    """
    progress = boot_progress(machine)
    if not compare:
        return IdentityEvidence(boot=progress)
    try:
        marker = _marker(machine)
        placed = marker.identity.files
        if placed is None:
            raise ValueError(
                f"{MARKER} has no digests of what was carried over, as an earlier version of the "
                "imager leaves it, so that nothing can be compared."
            )
        logs = Logs(machine)
        files = [_file_evidence(machine, file, logs) for file in placed]
        hostname = _hostname(machine, files, logs)
    except ValueError as error:
        return IdentityEvidence(boot=progress, problem=str(error))
    except OSError as error:
        where = f"{error.filename} " if error.filename else ""
        return IdentityEvidence(boot=progress, problem=f"{where}cannot be read: {error.strerror}.")
    return IdentityEvidence(boot=progress, nonce=marker.nonce, files=files, hostname=hostname)


def marker_lifeboat(machine: MachineFiles) -> tuple[str, Region] | None:
    """Return an arming's nonce and where its lifeboat was, as the marker has it; None without one.

    Raises `OSError` where the marker cannot be read or believed.
    """
    try:
        marker = _marker(machine)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), MARKER) from None
    place = marker.lifeboat
    return None if place is None else (marker.nonce, Region(place.offset_bytes, place.length_bytes))


def _marker(machine: MachineFiles) -> _Marker:
    """Read the marker, which only root can have written. Raises `OSError`, `ValueError`."""
    path = machine.path(MARKER)
    try:
        content = read_file(path, _MARKER_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, MARKER) from error
    why = why_unguarded(path, {0, os.geteuid()})
    if why is not None:
        raise ValueError(f"{MARKER} is not believed: {why}")
    try:
        return _Marker.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{MARKER} cannot be understood: {where}: {first['msg']}.") from None


def _file_evidence(machine: MachineFiles, placed: PlacedFile, logs: Logs) -> FileEvidence:
    """Compare a file with what was written. Raises `OSError` where it cannot be read."""
    try:
        differences = _differences(machine.path(placed.path), placed)
    except OSError as error:
        raise OSError(error.errno, error.strerror, placed.path) from error
    by = logs.changed_by(placed.path) if differences else None
    return FileEvidence(path=placed.path, differences=differences, by=by)


def _differences(path: Path, placed: PlacedFile) -> list[str]:
    try:
        file = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return ["it is missing"]
    except OSError as error:
        if error.errno == errno.ELOOP:
            return ["it is a symbolic link now"]
        raise
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        return ["it is not a regular file any more"]
    label = _label(file)
    try:
        content = read_all(file, placed.path, _MAX_FILE)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        content = b""
    found = []
    if hashlib.sha256(content).hexdigest() != placed.sha256:
        found.append("it has another content")
    mode = stat.S_IMODE(status.st_mode)
    if mode != placed.mode:
        found.append(f"it has the mode {mode:04o} instead of {placed.mode:04o}")
    if (status.st_uid, status.st_gid) != (placed.uid, placed.gid):
        found.append(
            f"it belongs to {status.st_uid}:{status.st_gid} instead of {placed.uid}:{placed.gid}"
        )
    if placed.label is not None and (label is None or "unlabeled_t" in label):
        found.append("it has lost its SELinux label")
    return found


def _label(file: int) -> str | None:
    try:
        return os.getxattr(file, _LABEL).decode(errors="replace").rstrip("\0")
    except OSError:
        return None


def _hostname(
    machine: MachineFiles, files: Sequence[FileEvidence], logs: Logs
) -> FileEvidence | None:
    """Compare the kernel's hostname with the carried one; None if none was carried over."""
    carried = next((file for file in files if file.path == _HOSTNAME), None)
    if carried is None:
        return None
    found = (read_text(machine.proc / "sys/kernel/hostname") or "").strip()
    if not found:
        raise OSError(errno.ENOENT, "cannot be read", "/proc/sys/kernel/hostname")
    text = read_text(machine.path(_HOSTNAME)) or ""
    lines = [line.strip() for line in text.splitlines()]
    wanted = next((line for line in lines if line and not line.startswith("#")), "")
    if carried.differences or not wanted or found.lower() == wanted.lower():
        return None
    return FileEvidence(
        path=_HOSTNAME,
        differences=[f"the kernel's hostname is {found} instead of {wanted}"],
        by=logs.changed_by(_HOSTNAME),
    )
