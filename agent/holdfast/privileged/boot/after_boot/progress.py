"""How far the boot of the running system is: whether what changes files at a boot is over."""

from __future__ import annotations

import shutil
import subprocess

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.models import BootProgress, CloudInit

_SECONDS = 15.0


def boot_progress(machine: MachineFiles) -> BootProgress:
    """Ask systemd and cloud-init, as far as this machine has them.

    `systemd` is the output of `systemctl is-system-running`; cloud-init is over once it has left
    its result, or once systemd runs its last unit no more (cloud-init's "Boot stages", and
    `status`).
    """
    state = None
    if machine.path("/run/systemd/system").exists():
        state = _systemctl("is-system-running") or "unknown"
    cloud_init: CloudInit | None = None
    run = machine.path("/run/cloud-init")
    if (run / "enabled").exists() or (run / "status.json").exists():
        if (run / "result.json").exists():
            cloud_init = "done"
        elif state in (None, "initializing", "starting", "unknown"):
            cloud_init = "running"
        else:
            unit = _systemctl("is-active", "cloud-final.service")
            cloud_init = "running" if unit in ("activating", "reloading") else "failed"
    return BootProgress(systemd=state, cloud_init=cloud_init)


def _systemctl(*arguments: str) -> str | None:
    """Return the word that systemctl prints; None if it prints none in time."""
    program = shutil.which("systemctl", path="/usr/bin:/bin")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() or None
