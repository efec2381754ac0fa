"""Runs shell scripts that mount a machine's disks, so that no mount outlives the script."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def in_own_mounts(script: str, *arguments: str | Path) -> str:
    """Run a bash script in a mount namespace of its own and return what it printed.

    Raises `RuntimeError` with what it printed if it fails.
    """
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private"),
            *("bash", "-euo", "pipefail", "-c", script, "script"),
            *(str(argument) for argument in arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        # Of a system that is installed, nothing is in the directory that it names here.
        env={name: value for name, value in os.environ.items() if name != "TMPDIR"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"a script on disks failed: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout
