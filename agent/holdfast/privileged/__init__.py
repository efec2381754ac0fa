"""The only package that writes to /proc/sys, /sys, /etc, /boot, network interfaces and swap.

What can be written is a closed list of typed requests (`writes.py`), each checked here again
whatever its sender has checked. `executor.py` performs them, one at a time, in this process; where
holdfast is installed as a service, `client.py` has them performed by a small process with more
rights than the daemon (`helper.py`), over a unix socket (`wire.py`). Neither reads settings back:
the caller of a write checks the outcome, as the kernel may have changed the value.
What makes a machine boot something else (`boot/`) reads all of it back from the disk.
"""

# ruff: noqa: PLC0415 - what arms is half of what a daemon would import, and most ask a helper

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.privileged.boot.policy import FindPolicy, no_policy
from holdfast.privileged.client import Helper
from holdfast.privileged.executor import LocalExecutor, Privileged
from holdfast.privileged.writes import Refused, Write

if TYPE_CHECKING:
    from holdfast.privileged.boot.arming import Boot

__all__ = ["Privileged", "Refused", "Write", "privileged"]


def privileged(
    helper: Path | None,
    imager: Path | None = None,
    policy: FindPolicy = no_policy,
    records: Path | None = None,
) -> Privileged:
    """Return who writes: the helper behind this socket, or without one this process.

    `imager` is the program for re-imaging (by default the package's), `policy` what root allows of
    it, and `records` root's directory in which outcomes of trials are kept; all for this process,
    the helper has its own.
    """
    if helper is not None:
        return Helper(helper)

    def boot() -> Boot:
        from holdfast.privileged.boot.arming import IMAGER, Boot
        from holdfast.privileged.trial.kept import NAME, KeptTrials

        kept = None if records is None else KeptTrials(records / NAME)
        return Boot(imager=imager or IMAGER, policy=policy, kept_trials=kept)

    return LocalExecutor(boot)
