"""Where the kernel tells how long tasks wait for I/O."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

from holdfast.manifests.models import PressureLimit
from holdfast.operations.model import RequestError, Slug

_SYSTEM = Path("/proc/pressure/io")
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where version 2 of the control groups is mounted, alone or beside version 1."""


def pressure_file(limit: PressureLimit) -> Path:
    """Return the file to watch. Raises `RequestError` if there is none."""
    if limit.cgroup is None:
        if not _SYSTEM.exists():
            raise RequestError(
                Slug.INVALID_REQUEST,
                "This kernel tells no I/O pressure (boot it with `psi=1`); leave `pressure` out.",
                "pressure",
            )
        return _SYSTEM
    group = PurePosixPath(limit.cgroup.lstrip("/"))
    if ".." in group.parts or "\0" in limit.cgroup:
        raise RequestError(
            Slug.INVALID_REQUEST,
            f"`{limit.cgroup}` is not a path of a control group.",
            "pressure.cgroup",
        )
    for mount in _CGROUPS:
        file = mount / group / "io.pressure"
        # What cannot be looked at, such as too long a name, is no group either.
        with suppress(OSError):
            if file.is_file():
                return file
    raise RequestError(
        Slug.INVALID_REQUEST,
        f"There is no control group {limit.cgroup} that tells its I/O pressure; name one of "
        "version 2, relative to /sys/fs/cgroup.",
        "pressure.cgroup",
    )
