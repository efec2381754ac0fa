"""Memory: transparent huge pages, and swap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from holdfast.node.storage.swap import read_swaps
from holdfast.privileged import Write
from holdfast.privileged.writes import HugePagesWrite, SwapArea, SwapWrite
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, chosen, observe_file

_FILES = {"transparent_hugepages": "enabled", "transparent_hugepages_defrag": "defrag"}
_OFF = "off"
_AREAS: TypeAdapter[list[tuple[str, int]]] = TypeAdapter(list[tuple[str, int]])
# Huge pages need free memory in one piece, so the kernel raises this with them.
_RESERVE = Knob("sysctl", "", "vm.min_free_kbytes")


class Memory(Plain):
    """The value of `swap` is `off`, or the areas in use as JSON: path and priority."""

    name = "memory"

    def __init__(self, sys: Path, proc: Path) -> None:
        self._base = sys / "kernel/mm/transparent_hugepage"
        self._proc = proc

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read the files, and /proc/swaps."""
        return {knob: self._observe(knob) for knob in knobs}

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Compare with the kernel's choices; see that memory can take what is in swap."""
        if knob.name == "swap":
            used = sum(area.used_bytes for area in read_swaps(self._proc))
            left = psutil.virtual_memory().available
            if desired == _OFF and used > left // 2:
                return (
                    f"cannot be turned off: {used >> 20} MiB are in it and {left >> 20} MiB of "
                    "memory are available; stop something first"
                )
            return None
        if observed.choices and desired not in observed.choices:
            return f"should be one of {', '.join(observed.choices)} here, not {desired}"
        return None

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the file, or return which swap areas should be in use."""
        del identity
        if knob.name != "swap":
            return HugePagesWrite.model_validate({"attribute": _FILES[knob.name], "value": value})
        areas = [] if value == _OFF else _AREAS.validate_json(value)
        return SwapWrite(areas=[SwapArea(path=path, priority=priority) for path, priority in areas])

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name the other modes of huge pages, and the reserve of memory."""
        if knob.name not in _FILES:
            return ()
        return [*(Knob(self.name, "", name) for name in _FILES if name != knob.name), _RESERVE]

    def _observe(self, knob: Knob) -> Observed:
        if knob.name != "swap":
            return chosen(observe_file(self._base / _FILES[knob.name]))
        try:
            areas = read_swaps(self._proc)
        except OSError as error:
            return Observed(None, f"cannot be read: {error.strerror}")
        if not areas:
            return Observed(_OFF)
        # The kernel numbers areas without a priority by their order, from -2 down.
        return Observed(json.dumps(sorted([area.path, max(area.priority, -1)] for area in areas)))
