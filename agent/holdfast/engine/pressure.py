"""How a request asks to give way while others wait for I/O, and what the kernel reports of that."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from holdfast.operations.model import RequestError, Slug
from holdfast.records.models import PathText, Request

_SYSTEM = Path("/proc/pressure/io")
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where version 2 of the control groups is mounted, alone or beside version 1."""


class PressureLimit(Request):
    """Give way while others wait for the device (pressure stall information, Linux 4.20)."""

    cgroup: PathText | None = Field(
        default=None,
        description="A control group below /sys/fs/cgroup, such as "
        "`system.slice/cassandra.service`; the whole system when left out.",
    )
    threshold_percent: float = Field(
        default=10.0,
        gt=0,
        le=100,
        description="Nothing more is read while some task waits for I/O during more than this "
        "share of the time.",
    )


def pressure_file(limit: PressureLimit) -> Path:
    """Return the file to watch. Raises `RequestError` if there is none."""
    if limit.cgroup is None:
        if not _SYSTEM.exists():
            raise RequestError(
                Slug.INVALID_REQUEST,
                "This kernel reports no I/O pressure (boot it with `psi=1`); leave `pressure` out.",
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
        # A path that cannot be probed, such as too long a name, is no group either.
        with suppress(OSError):
            if file.is_file():
                return file
    raise RequestError(
        Slug.INVALID_REQUEST,
        f"There is no control group {limit.cgroup} that reports its I/O pressure; name one of "
        "version 2, relative to /sys/fs/cgroup.",
        "pressure.cgroup",
    )


@dataclass(frozen=True, kw_only=True)
class EnginePressure:
    """A limit in the engine's form."""

    file: Path
    threshold_percent: float


def engine_limit(limit: PressureLimit | None) -> EnginePressure | None:
    """Return the engine's form of a limit. Raises `RequestError` as `pressure_file` does."""
    if limit is None:
        return None
    return EnginePressure(file=pressure_file(limit), threshold_percent=limit.threshold_percent)
