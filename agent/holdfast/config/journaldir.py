"""Where changes of settings are recorded: on the system's disk, not with the data."""

from __future__ import annotations

import hashlib
import os
import pwd
from pathlib import Path
from urllib.parse import quote

_SYSTEM = Path("/var/lib/holdfast-helper")
_MOST_NAME = 200


def journal_dir_of(state_dir: Path, helper: Path | None) -> Path:
    """Return where settings are recorded unless `tuning.journal_dir` names another directory.

    Each helper has a directory of its own, named after its socket, and without a helper each state
    directory. What is recorded decides what root writes: so it is on the system's disk, where data
    from elsewhere and the owner of the data's directory cannot change it. Without root's rights,
    and without a helper, it is in the user's own directory for state.
    """
    base = _SYSTEM if helper is not None or os.geteuid() == 0 else _state_home() / "holdfast"
    # /var/run is a link to /run: the helper and the daemon may spell one socket differently.
    name = _name_of(Path(os.path.realpath(helper)) if helper is not None else state_dir)
    return base / name / "tuning"


def _state_home() -> Path:
    """Return the user's directory for state (XDG Base Directory Specification).

    `HOME` counts only if it is this user's: setpriv(1) and su(1) leave another's there.
    """
    named = os.environ.get("XDG_STATE_HOME")
    if named:
        return Path(named)
    home = Path("~").expanduser()
    try:
        own = home.stat().st_uid == os.geteuid()
    except OSError:
        own = False
    if not own:
        try:
            home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        except KeyError:
            home = Path("/nonexistent")
    return home / ".local/state"


def _name_of(path: Path) -> str:
    """Write a path as a name, one to one."""
    name = quote(os.fsencode(path.absolute()), safe="").removeprefix("%2F")
    return name if len(name) <= _MOST_NAME else hashlib.sha256(name.encode()).hexdigest()
