"""The options by which work gives way to others, and the limit that they ask for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.cli.terminal.errors import UsageError

PressurePercent = Annotated[
    float | None,
    typer.Option(
        "--pressure",
        metavar="PERCENT",
        min=0.01,
        max=100,
        help="Pause while some task waits for I/O during more than this share of the time.",
    ),
]
PressureGroup = Annotated[
    str | None,
    typer.Option(
        "--pressure-cgroup",
        metavar="CGROUP",
        help="With --pressure: watch this control group, e.g. system.slice/cassandra.service.",
        show_default="the whole system",
    ),
]


def pressure_limit(percent: float | None, cgroup: str | None) -> dict[str, Any] | None:
    """Return the limit for a request. Raises `UsageError` for a group without a limit."""
    if cgroup is not None and percent is None:
        raise UsageError("--pressure-cgroup needs --pressure PERCENT")
    return None if percent is None else {"threshold_percent": percent, "cgroup": cgroup}
