"""From a boot to the warm throughput: curves that `python -m tests.bench warm --curves` measured.

The data are in `warm_start.json`: medians of three rounds, as shares of the warm throughput.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from canvas import Canvas

_COLOURS = ("bad", "data", "new", "warn")
_WIDTH, _HEIGHT = 370, 170
_ROW = _HEIGHT + 96
_TOP = 1.5
"""The largest share that is shown."""


def draw() -> str:
    """Return the figure."""
    data = json.loads(Path(__file__).with_suffix(".json").read_text())
    panels = [
        (f"{store}: {device}", measured)
        for store, devices in data.items()
        for device, measured in devices.items()
    ]
    rows = -(-len(panels) // 2)
    canvas = Canvas(
        96 + rows * _ROW,
        "From a boot to the warm throughput",
        "Reads in a second after a boot, as a share of the warm throughput, for a cold start, a "
        "start after a full load, and early starts during a load. "
        + " ".join(_words(title, measured["starts"]) for title, measured in panels),
    )
    canvas.text(20, 34, "Throughput after a boot", size=16, style="bold")
    canvas.text(
        20,
        54,
        "share of the warm throughput by seconds since the boot; in brackets, when 90 % of it was "
        "reached",
        size=12.5,
        style="muted",
    )
    for n, (title, measured) in enumerate(panels):
        x, y = 50 + n % 2 * (_WIDTH + 50), 100 + n // 2 * _ROW
        _panel(canvas, x, y, title, measured)
    return canvas.svg()


def _words(title: str, starts: Mapping[str, Any]) -> str:
    each = ", ".join(f"{name} {_reached(start)}" for name, start in starts.items())
    return f"{title}: {each}."


def _reached(start: Mapping[str, Any]) -> str:
    return "not reached" if start["reached"] is None else f"{start['reached']:g} s"


def _panel(canvas: Canvas, x: float, y: float, title: str, measured: Mapping[str, Any]) -> None:
    starts, step = measured["starts"], measured["step"]
    shares = {name: _smooth(start["shares"]) for name, start in starts.items()}
    seconds = max(len(each) for each in shares.values()) * step
    canvas.text(x, y - 12, title, size=13, style="bold")

    def place(second: float, share: float) -> tuple[float, float]:
        return x + second / seconds * _WIDTH, y + (1 - min(share, _TOP) / _TOP) * _HEIGHT

    for share in (0, 0.5, 1):
        canvas.line([place(0, share), place(seconds, share)], "faint")
        canvas.text(x - 8, place(0, share)[1] + 4, f"{share:.0%}", size=11, anchor="end")
    for second in range(0, round(seconds) + 1, 5):
        at, base = place(second, 0)
        canvas.text(at, base + 16, f"{second} s", size=11, style="muted", anchor="middle")
    for curve, colour in zip(shares.values(), _COLOURS, strict=False):
        points = [place((n + 0.5) * step, share) for n, share in enumerate(curve)]
        canvas.line(points, colour)
    for n, (name, colour) in enumerate(zip(starts, _COLOURS, strict=False)):
        at, base = x + n % 2 * 190, y + _HEIGHT + 34 + n // 2 * 17
        canvas.line([(at, base - 4), (at + 18, base - 4)], colour)
        canvas.text(at + 24, base, f"{name} ({_reached(starts[name])})", size=11.5)


def _smooth(text: str) -> Sequence[float]:
    """Average each point with its neighbours: a checkpoint or a neighbour's work is no news."""
    found = [float(share) for share in text.split()]
    windows = (found[max(0, n - 1) : n + 2] for n in range(len(found)))
    return [sum(window) / len(window) for window in windows]
