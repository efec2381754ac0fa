"""Parameters of kernel modules that can be changed while they are loaded."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.privileged import Write
from holdfast.privileged.writes import ModuleWrite
from holdfast.tuning.planning import values
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, observe_file

_SHOWN_TO_ALL = stat.S_IWUSR | stat.S_IROTH
_YES, _NO = frozenset({"Y", "y", "1", "true"}), frozenset({"N", "n", "0", "false"})


class Modules(Plain):
    """The knobs' targets are modules, their names are parameters."""

    name = "modules"

    def __init__(self, sys: Path) -> None:
        self._base = sys / "module"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        return {knob: self._observe(knob) for knob in knobs}

    def same(self, knob: Knob, desired: str, observed: str) -> bool:
        """Compare; the kernel shows a yes as Y, however it was written."""
        del knob
        if observed in ("Y", "N"):
            return desired in (_YES if observed == "Y" else _NO)
        return desired == observed or values.number(desired) == values.number(observed) is not None

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name the module's other parameters."""
        where = self._base / knob.target / "parameters"
        try:
            names = sorted(entry.name for entry in where.iterdir() if _is_open(entry))
        except OSError:
            return ()
        return [Knob(self.name, knob.target, name) for name in names if name != knob.name]

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the file."""
        del identity
        return ModuleWrite(module=knob.target, parameter=knob.name, value=value)

    def _observe(self, knob: Knob) -> Observed:
        module = self._base / knob.target
        missing = "does not exist" if module.exists() else "belongs to a module that is not loaded"
        return observe_file(module / "parameters" / knob.name, missing=missing)


def _is_open(path: Path) -> bool:
    """Whether it can be written, and is no secret."""
    return path.stat().st_mode & _SHOWN_TO_ALL == _SHOWN_TO_ALL
