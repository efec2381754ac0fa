"""What root allows of re-imaging, for every caller.

The daemon asks, and may be compromised; root's settings decide. `approval.py` holds a request
against them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.privileged.writes import Refused
from holdfast.storage.space import AUTO


@dataclass(frozen=True)
class Policy:
    """Root's settings, as far as an arming depends on them."""

    roots: Sequence[str]
    """Directories of state, which must not be on the disk that is written."""
    state_dir: str
    """The directory with what the daemon staged."""
    trusted_keys: Path = Path("/etc/holdfast/trusted-keys.d")
    require_signature: bool = False
    allow_kexec: bool = False
    """Start the imager by kexec where no boot loader can."""
    free_space_floor: str = AUTO
    """What stays free on the data volume."""
    require_lifeboat: bool = False
    """Arm nothing that a power cut could leave without a system that boots."""
    files: frozenset[str] = field(default_factory=frozenset)
    """Certificates, keys and tokens that may be packed for the imager."""
    told_by: str = "the settings"
    """For messages."""


FindPolicy = Callable[[], Policy]
"""Reads the settings anew. Raises `Refused` where they cannot be believed."""


def no_policy() -> Policy:
    """Refuse: this process was started for something else than re-imaging."""
    raise Refused("This process has no settings for re-imaging, so it arms nothing.")
