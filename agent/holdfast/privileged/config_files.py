"""holdfast's own files among the system's configuration: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from holdfast.privileged.rendering import ForeignFileError, parse, render
from holdfast.privileged.writes import LimitsFileWrite, OwnFileWrite, Refused
from holdfast.storage.atomic_files import flush_directory, replace_file

_DIRECTORIES = {
    "sysctl.d": Path("/etc/sysctl.d"),
    "udev": Path("/etc/udev/rules.d"),
    "tmpfiles.d": Path("/etc/tmpfiles.d"),
}
_NAMES = {
    "sysctl.d": "90-holdfast.conf",
    "udev": "90-holdfast.rules",
    "tmpfiles.d": "90-holdfast.conf",
}
_UNITS = Path("/etc/systemd/system")
_DROP_IN = "90-holdfast.conf"
_SECONDS = 30.0
_MOST_BYTES = 4 << 20


def path_of(place: str, unit: str = "") -> Path:
    """Return where a file is. Raises `Refused` for a drop-in without a unit."""
    if place not in ("limits", "service"):
        return _DIRECTORIES[place] / _NAMES[place]
    if not unit:
        raise Refused("A drop-in needs the unit that it is for.")
    return _UNITS / f"{unit}.d" / _DROP_IN


def read(place: str, unit: str = "") -> OwnFileWrite | None:
    """Return the content of a file; None if there is none.

    Raises `ForeignFileError` if it is not holdfast's own, and `OSError`.
    """
    path = path_of(place, unit)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ForeignFileError("is a symbolic link") from None
        raise
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ForeignFileError("is not a regular file")
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ForeignFileError("is too large")
    try:
        return parse(place, content.decode("ascii"), unit)
    except UnicodeDecodeError:
        raise ForeignFileError("has characters that holdfast never writes") from None


def install(write: OwnFileWrite) -> None:
    """Put a file in place, or remove it. It is on the disk when this returns.

    Raises `Refused` if what is there is not holdfast's own, and `OSError`.
    """
    unit = write.unit if isinstance(write, LimitsFileWrite) else ""
    path = path_of(write.kind, unit)
    content = render(write)
    try:
        read(write.kind, unit)
    except ForeignFileError as error:
        raise Refused(
            f"{path} {error}, so it is not holdfast's own and is left unchanged; move it away."
        ) from error
    if content is None:
        _remove(path)
    else:
        _replace(path, content)
        if read(write.kind, unit) != write:
            raise OSError(errno.EIO, "reads back as something else", str(path))
    if write.kind == "limits":
        _reload("systemctl", "daemon-reload")
    elif write.kind == "udev":
        _reload("udevadm", "control", "--reload")


def _replace(path: Path, content: str) -> None:
    made = not path.parent.exists()
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(path, content.encode("ascii"), 0o644)
    if made:
        flush_directory(path.parent.parent)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    flush_directory(path.parent)
    if path.parent.parent == _UNITS:
        # The directory was made for this file; others may have put theirs beside it.
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _reload(*command: str) -> None:
    """Have the program read its files again, if it runs."""
    runs = {"systemctl": Path("/run/systemd/system"), "udevadm": Path("/run/udev/control")}
    if not runs[command[0]].exists() or shutil.which(command[0]) is None:
        return
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, checked words, no shell
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), " ".join(command)) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"ended with {done.returncode}"
        raise OSError(errno.EIO, said, " ".join(command))
