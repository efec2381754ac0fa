"""holdfast's own files among the system's configuration: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

from holdfast.durable import flush_directory, replace_file
from holdfast.privileged.writes import FileWrite, Refused

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


def path_of(place: str, unit: str = "") -> Path:
    """Say where a file is. Raises `Refused` for a drop-in without a unit."""
    if place != "service":
        return _DIRECTORIES[place] / _NAMES[place]
    if not unit:
        raise Refused("A drop-in needs the unit that it is for.")
    return _UNITS / f"{unit}.d" / _DROP_IN


def install(write: FileWrite) -> None:
    """Put a file in place, or remove it. It is on the disk when this returns. Raises `OSError`."""
    path = path_of(write.place, write.unit)
    if write.content is None:
        _remove(path)
    else:
        _replace(path, write.content)
    if write.place == "service":
        _reload("systemctl", "daemon-reload")
    elif write.place == "udev":
        _reload("udevadm", "control", "--reload")


def _replace(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(path, content.encode(), 0o644)


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
    """Tell whoever reads such files; where they do not run there is nobody to tell."""
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
