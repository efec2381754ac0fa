"""How many file descriptors this process may have, and how many of them are for connections.

The rest stays in reserve for the work: the record of operations, loads, and the audit log open
files whatever strangers do to the listeners.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass

log = logging.getLogger(__name__)

_MOST = 1 << 19
"""What systemd allows by default. Some programs close each descriptor below their limit."""
_RESERVE = 128
_MOST_TCP = 512
_MOST_UNIX = 512
_FEWEST = 8


@dataclass(frozen=True)
class ConnectionLimits:
    """The most connections at a time, by transport."""

    tcp: int
    unix: int


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays at %d: %s", soft, error)


def connection_limits() -> ConnectionLimits:
    """Divide the present limit of open files: two thirds of what is not in reserve are for TCP."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST if soft == resource.RLIM_INFINITY else soft
    free = allowed - max(_RESERVE, allowed // 4)
    return ConnectionLimits(
        tcp=min(_MOST_TCP, max(_FEWEST, free * 2 // 3)),
        unix=min(_MOST_UNIX, max(_FEWEST, free // 3)),
    )
