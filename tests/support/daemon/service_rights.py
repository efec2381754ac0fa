"""The rights that the packaged units give to the daemon."""

from __future__ import annotations

import re
from pathlib import Path

UNITS = Path(__file__).parents[3] / "systemd"
NOBODY = 65_534


def rights(*files: str) -> list[str]:
    """Answer the capabilities that units give, as setpriv(1) names them."""
    text = "\n".join((UNITS / file).read_text() for file in files)
    lines = re.findall(r"^AmbientCapabilities=(.*)$", text, re.MULTILINE)
    return [name.removeprefix("CAP_").lower() for line in lines for name in line.split()]


def as_service(*files: str) -> tuple[str, ...]:
    """Answer a wrapper that runs a command as an unprivileged user with these capabilities."""
    given = ",".join(f"+{name}" for name in rights(*files))
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *user, f"--inh-caps=-all,{given}", f"--ambient-caps=-all,{given}", "--")
