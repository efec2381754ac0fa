"""Who besides root can influence what holdfast does here, and what its unit keeps from it."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from holdfast.config.findings import Finding
from holdfast.config.settings import Settings
from holdfast.config.unit_view import hidden_settings, read_unit
from holdfast.node.paths.guarded import why_unguarded

_USER = "holdfast"
"""As whom the package runs the daemon."""


def check_exposure(
    settings: Settings, config_file: Path, system: Path = Path("/")
) -> list[Finding]:
    """Compare settings with the rights on what they name, and with the daemon's unit."""
    found = []
    exposed = state_dir_exposed(settings)
    if exposed is not None:
        found.append(Finding("warning", exposed))
    with suppress(OSError):
        why = why_unguarded(config_file, {0, os.geteuid()})
        if why is not None:
            found.append(
                Finding(
                    "warning",
                    f"The settings file {config_file} is not root's alone, so the helper arms no "
                    f"re-imaging by it: {why}",
                )
            )
    view = read_unit(system)
    if view is not None:
        found += [Finding("warning", text) for text in hidden_settings(settings, view)]
    if not settings.reimage.require_signature:
        found.append(
            Finding(
                "note",
                "`reimage.require_signature` is off, so re-imaging is guarded by the daemon alone: "
                "an attacker who takes the daemon over can replace this system by another.",
            )
        )
    return found


def state_dir_exposed(settings: Settings) -> str | None:
    """Return a sentence if others can replace the state directory; None if nobody can.

    Nothing that root does depends on what is in it; what holdfast recorded does.
    """
    path = settings.state_dir or settings.roots[0] / ".holdfast"
    trusted = {0, os.geteuid()}
    with suppress(KeyError):
        trusted.add(pwd.getpwnam(_USER).pw_uid)
    try:
        why = why_unguarded(path.parent, trusted)
    except OSError:
        return None
    if why is None:
        return None
    return (
        f"The state directory {path} can be moved or replaced by others than root and holdfast: "
        f"{why} `chown root:root` and `chmod 0755` what it is in, with directories of their own "
        "for others below it, or set `state_dir` to a directory elsewhere."
    )
