"""The subsystems of settings, each a module: how to observe, compare, and write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast.tuning.planning.knobs import Subsystem
from holdfast.tuning.subsystems.block import Block
from holdfast.tuning.subsystems.limits import Limits
from holdfast.tuning.subsystems.memory import Memory
from holdfast.tuning.subsystems.modules import Modules
from holdfast.tuning.subsystems.network import Network
from holdfast.tuning.subsystems.persistence import Persistence
from holdfast.tuning.subsystems.sysctl import Sysctl


def all_subsystems(sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> Mapping[str, Subsystem]:
    """Make one of each, by name, in the order in which they are written and shown."""
    subsystems: tuple[Subsystem, ...] = (
        Sysctl(proc),
        Block(sys),
        Network(),
        Memory(sys, proc),
        Limits(),
        Modules(sys),
        Persistence(),
    )
    return {subsystem.name: subsystem for subsystem in subsystems}
