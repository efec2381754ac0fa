"""Attributes of block devices' queues: files in /sys/class/block/<device>/queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.node.files import read_text
from holdfast.privileged import Write
from holdfast.privileged.writes import BlockWrite
from holdfast.tuning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, chosen, observe_file

# Choosing a scheduler sets the depth of the queue and the target of write-back throttling anew.
_SET_BY_SCHEDULER = ("nr_requests", "wbt_lat_usec")


class Block(Plain):
    """The knobs' targets are the kernel's names of devices, found by a selector each time."""

    name = "block"

    def __init__(self, sys: Path) -> None:
        self._base = sys / "class/block"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Read each file."""
        return {knob: self._observe(knob) for knob in knobs}

    def _observe(self, knob: Knob) -> Observed:
        device = self._base / knob.target
        missing = "does not exist for this device" if device.exists() else "is gone"
        observed = observe_file(device / "queue" / knob.name, missing=missing)
        if knob.name == "scheduler":
            observed = chosen(observed)
            if observed.value is not None and observed.choices == ("none",):
                return Observed("none", None, observed.choices)
        return observed

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Compare with what the device offers."""
        if knob.name == "scheduler" and observed.choices and desired not in observed.choices:
            return f"should be one of {', '.join(observed.choices)} for this device, not {desired}"
        if knob.name == "max_sectors_kb":
            most = read_text(self._base / knob.target / "queue/max_hw_sectors_kb")
            if most is not None and int(desired) > int(most):
                return f"should be at most {most}, which is what the device can do, not {desired}"
        return None

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Write the file."""
        return BlockWrite.model_validate(
            {
                "device": knob.target,
                "diskseq": identity,
                "attribute": knob.name,
                "value": value,
            }
        )

    def identity(self, target: str) -> str:
        """Return the number that the kernel gave the device when it appeared."""
        return read_text(self._base / target / "diskseq") or ""

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name what choosing a scheduler sets anew."""
        if knob.name != "scheduler":
            return ()
        return [Knob(self.name, knob.target, name) for name in _SET_BY_SCHEDULER]

    def rank(self, knob: Knob) -> int:
        """Put the scheduler first."""
        return 0 if knob.name == "scheduler" else 1
