"""Sysctls: files below /proc/sys. Those of the network are of this process's namespace."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.privileged import Write
from holdfast.privileged.writes import SysctlWrite, sysctl_path
from holdfast.tuning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, observe_file

_NUMBER = re.compile(r"-?[0-9]+")


class Sysctl(Plain):
    """The knobs' target is empty, their names are those of sysctl(8)."""

    name = "sysctl"

    def __init__(self, proc: Path) -> None:
        self._base = proc / "sys"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        return {knob: observe_file(self._path(knob)) for knob in knobs}

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Compare the shape with what is there: words for numbers, or too few of them."""
        if observed.value is None:
            return None if self._path(knob).exists() else self._suggest(knob)
        now, wanted = observed.value.split(), desired.split()
        if now and all(map(_NUMBER.fullmatch, now)):
            if len(wanted) != len(now):
                return f"needs {_numbers(len(now))} like the present {observed.value!r}"
            if not all(map(_NUMBER.fullmatch, wanted)):
                return f"should be a number like the present {observed.value}, not {desired!r}"
        return None

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the file."""
        del identity
        return SysctlWrite(name=knob.name, value=value)

    def _path(self, knob: Knob) -> Path:
        return self._base.joinpath(*sysctl_path(knob.name))

    def _suggest(self, knob: Knob) -> str:
        path = self._path(knob)
        try:
            near = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()])
        except OSError:
            near = []
        if not near:
            return "does not exist on this kernel"
        close = ".".join([*knob.name.split(".")[:-1], near[0].replace(".", "/")])
        return f"does not exist on this kernel; did you mean `{close}`?"


def _numbers(count: int) -> str:
    return "one number" if count == 1 else f"{count} numbers"
