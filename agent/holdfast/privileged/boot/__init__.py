"""Has the next boot write an image to the disk of the root: arm, disarm, and what came of it.

`arming.py` puts the steps in order; `loaders/registry.py` chooses the boot loader. Everything
written is flushed (`disk/file_io.py`, `disk/freeze.py`) and read back from the disk
(`disk/storage.py`) before it counts.
"""

from collections.abc import Sequence
from pathlib import Path

from holdfast.privileged.boot.arming import IMAGER, Boot
from holdfast.privileged.boot.models import (
    BootReport,
    CarriedItem,
    ExplainRequest,
    IdentityName,
)
from holdfast.privileged.boot.policy import FindPolicy, Policy

__all__ = ["IMAGER", "Boot", "FindPolicy", "Policy", "carried", "explain"]


def explain(request: ExplainRequest, imager: Path = IMAGER) -> BootReport:
    """Return what arming would do here, and why it would be refused; needs no rights.

    `imager` is the program that would run. Raises `OSError` without /proc.
    """
    return Boot(imager=imager).explain(request)


def carried(names: Sequence[IdentityName]) -> Sequence[CarriedItem]:
    """Return which files of this machine make up these items of identity; reads none of them."""
    return Boot().identity(names)
