"""The state of a unit, as systemd has it."""

from __future__ import annotations

import shutil
import subprocess

_SECONDS = 10.0
_EIO, _ENOENT = 5, 2


def unit_state(unit: str) -> str:
    """Return `active`, `activating`, `failed` and the like. Raises `OSError`."""
    program = shutil.which("systemctl", path="/usr/bin:/bin")
    if program is None:
        raise OSError(_ENOENT, "is not installed", "systemctl")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, "show", "--property=ActiveState", "--value", "--", unit],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(_EIO, "took too long", "systemctl") from None
    state = done.stdout.strip()
    if done.returncode != 0 or not state.isalpha():
        raise OSError(_EIO, " ".join(done.stderr.split())[:200] or "failed", "systemctl")
    return state
