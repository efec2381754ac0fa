"""Limits of services: a systemd drop-in for the datastore's unit, which counts from its next start.

The value of a knob is that of the drop-in; `running_limits` returns what a running service still
has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from holdfast.node.paths.files import read_text
from holdfast.privileged import Write
from holdfast.privileged.config_files import read
from holdfast.privileged.rendering import ForeignFileError
from holdfast.privileged.writes import LimitsFileWrite
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.persistence import foreign
from holdfast.tuning.subsystems.plain import Plain

UNSET = "not set"
# As /proc/<pid>/limits calls them.
_NAMES = {
    "nofile": "Max open files",
    "nproc": "Max processes",
    "memlock": "Max locked memory",
    "as": "Max address space",
    "core": "Max core file size",
    "stack": "Max stack size",
}


class Limits(Plain):
    """The knobs' targets are units, their names are limits such as `nofile`."""

    name = "limits"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each unit's drop-in."""
        found: dict[Knob, Observed] = {}
        for knob in knobs:
            try:
                found[knob] = Observed(_read(knob.target).get(knob.name, UNSET))
            except ForeignFileError as error:
                found[knob] = Observed(None, foreign(error))
            except OSError as error:
                found[knob] = Observed(None, f"cannot be read: {error.strerror}")
        return found

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the drop-in with this limit changed."""
        del identity
        limits = _read(knob.target)
        if value == UNSET:
            limits.pop(knob.name, None)
        else:
            limits[knob.name] = value
        return LimitsFileWrite.model_validate({"unit": knob.target, "limits": limits})


def _read(unit: str) -> dict[str, str]:
    content = read("limits", unit)
    return (
        {str(name): value for name, value in content.limits.items()}
        if isinstance(content, LimitsFileWrite)
        else {}
    )


def running_limits(
    unit: str, name: str, *, cgroups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")
) -> str | None:
    """Return the limit that a unit's first process has now; None if it does not run."""
    for directory in _groups(unit, cgroups):
        for pid in (read_text(directory / "cgroup.procs") or "").split():
            for line in (read_text(proc / pid / "limits") or "").splitlines():
                if line.startswith(_NAMES[name]):
                    soft = line[len(_NAMES[name]) :].split()[0]
                    return "infinity" if soft == "unlimited" else soft
    return None


def _groups(unit: str, cgroups: Path) -> Iterator[Path]:
    for top in (cgroups, cgroups / "systemd", cgroups / "unified"):
        yield top / "system.slice" / unit
