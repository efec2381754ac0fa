"""The only package that writes to /proc/sys, /sys, /etc, /boot, network interfaces and swap.

What can be written is a closed list of typed requests (`writes.py`), each checked here again
whatever its sender has checked. `executor.py` performs them, one at a time, in this process; where
holdfast is installed as a service, `client.py` has them performed by a small process with more
rights than the daemon (`helper.py`), over a unix socket (`wire.py`). Neither reads settings back:
the caller of a write checks the outcome, as the kernel may have changed the value.
What makes a machine boot something else (`boot/`) reads all of it back from the disk.
"""

from pathlib import Path

from holdfast.privileged.boot.arming import IMAGER, Boot
from holdfast.privileged.boot.policy import FindPolicy, no_policy
from holdfast.privileged.client import Helper
from holdfast.privileged.executor import LocalExecutor, Privileged
from holdfast.privileged.trial.kept import NAME, KeptTrials
from holdfast.privileged.writes import Refused, Write

__all__ = ["IMAGER", "Privileged", "Refused", "Write", "privileged"]


def privileged(
    helper: Path | None,
    imager: Path = IMAGER,
    policy: FindPolicy = no_policy,
    records: Path | None = None,
) -> Privileged:
    """Return who writes: the helper behind this socket, or without one this process.

    `imager` is the program for re-imaging, `policy` what root allows of it, and `records` root's
    directory in which outcomes of trials are kept; all for this process, the helper has its own.
    """
    if helper is not None:
        return Helper(helper)
    kept = None if records is None else KeptTrials(records / NAME)
    return LocalExecutor(Boot(imager=imager, policy=policy, kept_trials=kept))
