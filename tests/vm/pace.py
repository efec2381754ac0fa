"""How fast the emulation is on this machine; what waits for it has the patience that follows."""

from __future__ import annotations

TIMER = "no_timer_check"
"""For the kernel's command line: emulated on a busy machine it misses its timer, and panics."""
_QUIET_BOOT = 45.0
"""Seconds of a boot, until systemd has nothing more to do, on two idle cores."""
_UNKNOWN = 4.0
"""How many times slower it may be until a boot was measured."""
_boots: list[float] = []


def booted(seconds: float) -> None:
    """Record how long a machine took from power on until systemd had nothing more to do."""
    _boots.append(seconds)


def patience(seconds: float) -> float:
    """Return the deadline to use for what takes at most `seconds` on two idle cores.

    The slowest boot counts: other work on the machine comes and goes.
    """
    return seconds * (max(1.0, max(_boots) / _QUIET_BOOT) if _boots else _UNKNOWN)
