"""What the tests stand on: commands of Debian packages, what `make` built, and the machine."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.machine.disk import real_directory

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK = Path(tempfile.gettempdir(), f"holdfast-tests-{os.geteuid()}.lock")
"""Locked by each test, and by one that runs alone for itself: the machine is what they share."""
_CLONE_NEWNS = 0x00020000  # linux/sched.h; os.unshare comes with Python 3.12
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def extend_path() -> None:
    """Add the directories of administrators' commands to PATH, for children too.

    The PATH of ordinary users on Debian does not have them.
    """
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path += [directory for directory in _SYSTEM_DIRECTORIES if directory not in path]
    os.environ["PATH"] = os.pathsep.join(path)


def own_mounts() -> None:
    """Move this process into a mount namespace of its own, if it may; for children too.

    What a test mounts is then unknown to the tests beside it. Namespaces that those make would keep
    a copy of it otherwise, and its disk busy after the test has unmounted it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def in_ci() -> bool:
    """Return whether this is continuous integration, where nothing may be skipped for a package."""
    return bool(os.environ.get("CI"))


@cache
def packages() -> dict[str, str]:
    """Return the Debian package of each command that the lists in packaging/ name."""
    lines = [
        line.split()
        for path in sorted((CHECKOUT / "packaging").glob("*-packages.txt"))
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return {Path(command).name: package for package, command in lines}


def program(command: str) -> str:
    """Return the path of `command`; skip the test where it is missing, and fail it in CI."""
    path = shutil.which(command)
    if path is None:
        reason = f"needs `{command}` of the Debian package {packages()[command]}"
        if in_ci():
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def built(pattern: str, target: str) -> Path:
    """Return the only file of dist/ that matches; skip the test without one, and fail it in CI."""
    paths = list((CHECKOUT / "dist").glob(pattern))
    if not paths and not in_ci():
        pytest.skip(f"needs dist/{pattern}, which `make {target}` builds")
    if len(paths) != 1:
        pytest.fail(f"dist/{pattern}: {len(paths)} files instead of one; run `make {target}`")
    return paths[0]


def skip_without_package(error: BaseException) -> None:
    """Skip the test if `error` comes of a listed command that is missing; never in CI."""
    if in_ci():
        return
    for cause in _causes(error):
        if not isinstance(cause, FileNotFoundError) or cause.filename is None:
            continue
        command = Path(os.fsdecode(cause.filename)).name
        if command in packages() and shutil.which(command) is None:
            pytest.skip(f"needs `{command}` of the Debian package {packages()[command]}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def report() -> list[str]:
    """Return one line each for what many tests need of the machine and cannot set up."""
    return [
        f"null device: {_null()}",
        f"loop devices: {_loops()}",
        f"namespaces: {_namespaces()}",
        f"disk: {_disk()}",
    ]


def _null() -> str:
    status = Path("/dev/null").stat()
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISCHR(status.st_mode) or device != (1, 3):
        return "/dev/null is not the null device: as root, mknod -m 666 /dev/null c 1 3"
    if status.st_mode & 0o666 != 0o666:
        return f"mode {stat.S_IMODE(status.st_mode):04o}, apt fails: as root, chmod 666 /dev/null"
    return "writable by all"


def _loops() -> str:
    if os.geteuid() != 0:
        return "for root only, their tests are skipped"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "none, their tests are skipped"
    return "available"


def _namespaces() -> str:
    arguments = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    try:
        done = subprocess.run(
            ["unshare", *arguments, "--mount", "--net", "true"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return f"none: {done.stderr.strip()}" if done.returncode else "mount and network available"


def _disk() -> str:
    try:
        directory = real_directory()
    except RuntimeError as error:
        return str(error)
    return f"{shutil.disk_usage(directory).free / (1 << 30):.1f} GiB free in {directory}"
