"""What a chain of loaders ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.oracles.powerloss.sectors import Reader


@dataclass(frozen=True)
class Loaded:
    """A kernel in memory, with its initramfs."""

    kernel: bytes
    """As long as what was read, which is padded to whole sectors."""
    initramfs: bytes
    words: Sequence[str]
    """The kernel's command line."""


class Firmware(Protocol):
    """What a machine does with its disk when it is switched on."""

    def repairs(self, disk: Reader) -> Mapping[int, bytes]:
        """Return what it writes to the disk before it boots: contents by their first sector."""

    def load(self, disk: Reader) -> Loaded:
        """Load what the disk boots. Raises `NotBootableError` if it boots nothing."""
