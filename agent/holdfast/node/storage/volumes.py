"""Whether a root is there: also where its volume is missing and left an empty mount point behind.

What is a mount point is declared by the machine's own files: fstab(5), and systemd's units for
mounts, which are named after their mount point (systemd.mount(5)) as systemd.unit(5) escapes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from holdfast.node.storage.mounts import Mount, read_mounts, unescape

_OF_THE_MACHINE = ("etc/systemd/system", "run/systemd/system", "run/systemd/generator")
_OF_PACKAGES = ("usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_SYSTEM = Path("/")


def missing(root: Path, system: Path = _SYSTEM) -> str | None:
    """Return why a root is not there, as in `does not exist`; None if it is.

    `system` is where the files are that describe the machine.
    """
    if not root.is_dir():
        return "is not a directory" if root.exists() else "does not exist"
    found = _unmounted(root, system)
    if found is None:
        return None
    point, told_by = found
    if point == Path(os.path.realpath(root)):
        return f"is not mounted, though {told_by} names it as a mount point"
    return f"is in {point}, which is not mounted though {told_by} names it as a mount point"


def on_missing_volume(path: Path, system: Path = _SYSTEM) -> str | None:
    """Return the volume that `path` should be on if it is missing; `path` need not exist."""
    found = _unmounted(path, system)
    if found is None:
        return None
    return f"is in {found[0]}, which is not mounted though {found[1]} names it as a mount point"


def _unmounted(path: Path, system: Path) -> tuple[Path, str] | None:
    """Find the innermost mount point around `path`, and who names it, if nothing is mounted there.

    One that systemd mounts on access (autofs) counts as mounted: a process that opens it gets the
    volume or an error, never the directory below.
    """
    real = Path(os.path.realpath(path))
    for point in (real, *real.parents[:-1]):
        told_by = _named(point, system)
        if told_by is not None:
            mounts = read_mounts()
            here = [mount for mount in mounts if mount.point == str(point)]
            mounted = any(not _of_itself(mount, mounts) for mount in here)
            return None if mounted else (point, told_by)
    return None


def _of_itself(mount: Mount, mounts: Sequence[Mount]) -> bool:
    """Whether a directory is mounted on itself: a service is shown one so, and it is no volume."""
    point = PurePosixPath(mount.point)
    return any(
        around.number == mount.number
        and around.point != mount.point
        and point.is_relative_to(around.point)
        and str(PurePosixPath(around.root) / point.relative_to(around.point)) == mount.root
        for around in mounts
    )


def _named(point: Path, system: Path) -> str | None:
    """Return the file that names `point` as a mount point."""
    if any(os.path.realpath(each) == str(point) for each in _fstab(system / "etc/fstab")):
        return "/etc/fstab"
    # As sd_booted(3) checks: only systemd reads units.
    if (system / "run/systemd/system").is_dir():
        return _unit(_unit_name(point), system)
    return None


def _fstab(path: Path) -> Iterator[str]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and not fields[0].startswith(b"#") and fields[1].startswith(b"/"):
            yield unescape(fields[1])


def _unit(name: str, system: Path) -> str | None:
    """Find the unit that counts; one that a package ships counts only where something wants it."""
    for directory in _OF_THE_MACHINE + _OF_PACKAGES:
        unit = system / directory / name
        if not os.path.lexists(unit):
            continue
        if _masked(unit) or (directory in _OF_PACKAGES and not _wanted(name, system)):
            return None
        return f"/{directory}/{name}"
    return None


def _masked(unit: Path) -> bool:
    """Whether it is a link to /dev/null, or empty, which means the same."""
    with suppress(OSError):
        return unit.resolve() == Path("/dev/null") or unit.stat().st_size == 0
    return True


def _wanted(name: str, system: Path) -> bool:
    return any(
        os.path.lexists(dependency / name)
        for directory in _OF_THE_MACHINE + _OF_PACKAGES
        for kind in ("wants", "requires")
        for dependency in (system / directory).glob(f"*.{kind}")
    )


def _unit_name(point: Path) -> str:
    r"""Name the unit of a mount point: /mnt/my-data is mnt-my\x2ddata.mount."""
    escaped = re.sub(
        rb"^\.|[^A-Za-z0-9:_./]",
        lambda found: b"\\x%02x" % found[0][0],
        os.fsencode(str(point).strip("/")),
    )
    return os.fsdecode(escaped.replace(b"/", b"-")) + ".mount"
