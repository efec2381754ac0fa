"""What tests inspect in a machine that runs holdfast and the stand-in for a datastore."""

from __future__ import annotations

import json
from typing import Any

from tests.support.waiting import until
from tests.vm.guest import Guest
from tests.vm.pace import patience

FILE_MIB = 64
"""The datastore's file, of which half is hot."""
SECONDS = 600.0
"""How long to wait for what must come about, on an emulated processor beside other tests."""

PATIENCE = """\
[Service]
TimeoutStartSec=10min
WatchdogSec=5min
"""
"""A drop-in for holdfast.service: what it takes in emulation, beside other tests."""


def first_pass(guest: Guest) -> dict[str, Any]:
    """Wait for the datastore's first pass over its hot set, and return its cost."""

    def reported() -> dict[str, Any] | None:
        done = guest.call("/bin/cat", "/run/datastore.json")
        found: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return found

    found = until(
        reported, seconds=patience(SECONDS), what="the datastore's first pass", interval=0.5
    )
    assert found["hot_bytes"] == FILE_MIB << 19
    return found


def started_at(guest: Guest, unit: str = "datastore.service") -> float:
    """When the main process of a unit was started, in seconds since the boot."""
    return moments(guest, unit, "ExecMainStartTimestampMonotonic")[0] / 1e6


def moments(guest: Guest, unit: str, *names: str) -> list[int]:
    """Read numbers of a unit; times are in µs since the boot."""
    shown = guest.run("/bin/systemctl", "show", unit, *(f"--property={name}" for name in names))
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return [int(values[name]) for name in names]


def metric(guest: Guest, name: str, **labels: str) -> float:
    """Read a metric as Prometheus would: over TCP, without a token."""
    text = _get(guest, "/metrics", "c.HTTPConnection('127.0.0.1',9918,timeout=60)")[1]
    shown = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
    line = next(
        line for line in text.splitlines() if line.startswith(f"{name}{shown if labels else ''} ")
    )
    return float(line.rpartition(" ")[2])


def readiness(guest: Guest) -> list[str]:
    """Why the daemon is not ready, nothing if it is; the metric has to agree."""
    unix = (
        "c.HTTPConnection('holdfast');h.sock=s.socket(s.AF_UNIX);"
        "h.sock.connect('/run/holdfast/holdfast.sock')"
    )
    status, body = _get(guest, "/readyz", unix)
    assert status in (200, 503), body
    assert metric(guest, "holdfast_ready") == (status == 200)
    reasons: list[str] = [] if status == 200 else json.loads(body)["reasons"]
    return reasons


def _get(guest: Guest, path: str, connection: str) -> tuple[int, str]:
    script = (
        f"import http.client as c,socket as s;h={connection};"
        f"h.request('GET',{path!r});a=h.getresponse();print(a.status);print(a.read().decode())"
    )
    status, _, body = guest.run("/usr/bin/python3", "-c", script).partition("\n")
    return int(status), body


def journal(guest: Guest, *units: str, boot: int = 0) -> str:
    """Read what units wrote, and what systemd wrote about them."""
    chosen = [f"--unit={unit}" for unit in units]
    return guest.run("/usr/bin/journalctl", f"--boot={boot}", "--output=cat", "--no-pager", *chosen)
