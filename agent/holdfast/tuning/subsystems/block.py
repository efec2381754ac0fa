"""Attributes of block devices' queues: files in /sys/class/block/<device>/queue."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.node.paths.files import read_text
from holdfast.privileged import Write
from holdfast.privileged.writes import BLOCK_ATTRIBUTES, BlockWrite, is_queue_attribute
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems.plain import Plain, chosen, observe_file

_SCHEDULER = "scheduler"
_OF_SCHEDULER = "iosched"
# Limits of a queue are computed anew from one another, so read-ahead comes last.
_RANKS = {_SCHEDULER: 0, "max_sectors_kb": 1, "read_ahead_kb": 3}
_ALIASES = {"deadline": "mq-deadline"}
_LEAST_REQUESTS = 4


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
        if knob.name == _SCHEDULER:
            observed = chosen(observed)
            if observed.value is not None and observed.choices == ("none",):
                return Observed("none", None, observed.choices)
        return observed

    def canonical(self, knob: Knob, value: str) -> str:
        """Write a number without leading zeros, and a scheduler by the name that is shown."""
        if knob.name == _SCHEDULER:
            return _ALIASES.get(value, value)
        return str(int(value)) if value.lstrip("-").isdecimal() else value

    def rounded(self, knob: Knob, value: str) -> str:
        """Return whole pages of read-ahead, and no fewer requests than the kernel keeps."""
        if not value.isdecimal():
            return value
        if knob.name == "read_ahead_kb":
            page = mmap.PAGESIZE >> 10
            return str(int(value) // page * page)
        if knob.name == "nr_requests":
            return str(max(int(value), _LEAST_REQUESTS))
        return value

    def problem(self, knob: Knob, desired: str, observed: Observed) -> str | None:
        """Compare with what the device offers."""
        if knob.name == _SCHEDULER and observed.choices and desired not in observed.choices:
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

    def identity(self, knob: Knob) -> str:
        """Return the number that the kernel gave the device when it appeared."""
        return read_text(self._base / knob.target / "diskseq") or ""

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name the other attributes of the queue: some are computed from others."""
        names = [*BLOCK_ATTRIBUTES]
        if knob.name == _SCHEDULER:
            # A scheduler starts with parameters of its own, also if it was there before.
            where = self._base / knob.target / "queue" / _OF_SCHEDULER
            names += _parameters(where)
        return [Knob(self.name, knob.target, name) for name in names if name != knob.name]

    def rank(self, knob: Knob) -> int:
        """Put the scheduler first."""
        return _RANKS.get(knob.name, 2)


def _parameters(directory: Path) -> list[str]:
    try:
        return sorted(
            name
            for name in (f"{_OF_SCHEDULER}/{entry.name}" for entry in directory.iterdir())
            if is_queue_attribute(name)
        )
    except OSError:
        return []
