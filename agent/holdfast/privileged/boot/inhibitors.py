"""What inhibits a shutdown of this machine, as systemd-logind knows it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from holdfast.privileged.boot.models import Inhibitor

_INHIBITED = Path("/run/systemd/inhibit")
"""Made by systemd-logind. Without it there is none, and nothing can be inhibited."""
_CALL = (
    "--json=short",
    "--timeout=10",
    "call",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
    "ListInhibitors",
)
_SECONDS = 20.0
_MOST_TEXT = 200
_EIO, _ENOENT = 5, 2


def blocking_inhibitors(directory: Path = _INHIBITED) -> list[Inhibitor]:
    """Return who blocks a shutdown. Those that only delay it are logind's to wait for.

    `systemctl --check-inhibitors=yes` would refuse for every user who is logged in as well. Raises
    `OSError` where logind runs and cannot be asked.
    """
    if not directory.is_dir():
        return []
    program = shutil.which("busctl", path="/usr/bin:/bin")
    if program is None:
        raise OSError(_ENOENT, "is not installed", "busctl")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, *_CALL], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(_EIO, "took too long", "busctl") from None
    if done.returncode != 0:
        raise OSError(_EIO, " ".join(done.stderr.split())[:_MOST_TEXT] or "failed", "busctl")
    try:
        ((*rows,),) = json.loads(done.stdout)["data"]
        return [
            Inhibitor(who=_plain(who), why=_plain(why), uid=uid, pid=pid)
            for what, who, why, mode, uid, pid in rows
            if "shutdown" in what.split(":") and mode.startswith("block")
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(_EIO, f"answered something else: {error}", "busctl") from error


def _plain(text: str) -> str:
    """Return what any user may have written, bounded and printable."""
    shown = " ".join(text.split())[:_MOST_TEXT]
    return "".join(character if character.isprintable() else "?" for character in shown)
