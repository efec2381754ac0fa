"""Writes an SVG figure: boxes, arrows and text, readable on a light and on a dark page.

Coordinates are in pixels of a figure that is 860 wide, the width of a page on GitHub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860

# name: (light fill, light line, dark fill, dark line)
_COLOURS = {
    "plain": ("#ffffff", "#afb8c1", "#0d1117", "#57606a"),
    "old": ("#eef0f2", "#8c959f", "#272c33", "#8b949e"),
    "new": ("#ddeeff", "#0b5cad", "#132f4c", "#6cb0ff"),
    "data": ("#d8f3ec", "#0a7d6c", "#0e3a33", "#46c2aa"),
    "warn": ("#fff2d3", "#9a6700", "#3a2d0d", "#d9a441"),
    "bad": ("#fde8e6", "#b3261e", "#43191a", "#ff8f88"),
    "faint": ("#f6f8fa", "#d0d7de", "#161b22", "#3d444d"),
}
_STYLE = """\
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.code { font-family: ui-monospace, SFMono-Regular, "DejaVu Sans Mono", monospace }
.bold { font-weight: 600 }
.muted { fill: #59636e }
.page { fill: #ffffff; stroke: #d0d7de }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.5 }
.head { fill: #59636e }
.dashed { stroke-dasharray: 5 4 }
"""
_DARK = """\
text { fill: #e6edf3 }
.muted { fill: #9aa4ae }
.page { fill: #0d1117; stroke: #3d444d }
.arrow { stroke: #9aa4ae }
.head { fill: #9aa4ae }
"""


@dataclass(frozen=True)
class Box:
    """A box that was drawn, to which arrows can lead."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        """The middle of its left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """The middle of its right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        """The middle of its top."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """The middle of its bottom."""
        return self.x + self.width / 2, self.y + self.height


class Canvas:
    """One figure."""

    def __init__(self, height: int, title: str, description: str) -> None:
        self._height = height
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 14,
        style: str = "",
        anchor: str = "start",
    ) -> None:
        """Write a line with its baseline at `y`; `style` is of `bold`, `muted`, `code`."""
        named = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{named}>'
            f"{escape(text)}</text>"
        )

    def lines(
        self,
        x: float,
        y: float,
        lines: Sequence[str],
        *,
        size: float = 13,
        style: str = "muted",
        anchor: str = "start",
    ) -> None:
        """Write lines below each other, the first with its baseline at `y`."""
        for number, line in enumerate(lines):
            self.text(x, y + number * size * 1.4, line, size=size, style=style, anchor=anchor)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str = "plain",
        *,
        title: str = "",
        lines: Sequence[str] = (),
        dashed: bool = False,
        code: bool = False,
        size: float = 14,
    ) -> Box:
        """Draw a box with a title and smaller lines, all in its middle."""
        dash = " dashed" if dashed else ""
        self._parts.append(
            f'<rect class="{colour}{dash}" x="{x:g}" y="{y:g}" width="{width:g}" '
            f'height="{height:g}" rx="7" stroke-width="1.5"/>'
        )
        small = size - 1.5
        total = (size * 1.3 if title else 0) + len(lines) * small * 1.35
        line_y = y + (height - total) / 2
        middle = x + width / 2
        if title:
            line_y += size
            self.text(
                middle,
                line_y,
                title,
                size=size,
                style="bold code" if code else "bold",
                anchor="middle",
            )
            line_y += size * 0.3
        for line in lines:
            line_y += small * 1.15
            self.text(middle, line_y, line, size=small, style="muted", anchor="middle")
            line_y += small * 0.2
        return Box(x, y, width, height)

    def bar(self, x: float, y: float, width: float, height: float, share: float) -> None:
        """Draw a progress bar."""
        for colour, part in (("old", 1.0), ("new", share)):
            self._parts.append(
                f'<rect class="{colour}" x="{x:g}" y="{y:g}" width="{width * part:g}" '
                f'height="{height:g}" rx="3"/>'
            )

    def arrow(
        self,
        *points: tuple[float, float],
        dashed: bool = False,
        both: bool = False,
    ) -> None:
        """Draw an arrow through the points; a head at its end, or at both ends."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = " dashed" if dashed else ""
        start = ' marker-start="url(#head)"' if both else ""
        self._parts.append(f'<path class="arrow{dash}" d="{path}" marker-end="url(#head)"{start}/>')

    def curve(self, path: str, *, dashed: bool = False) -> None:
        """Draw an arrow along a path in the notation of SVG."""
        dash = " dashed" if dashed else ""
        self._parts.append(f'<path class="arrow{dash}" d="{path}" marker-end="url(#head)"/>')

    def rule(self, *points: tuple[float, float], dashed: bool = True) -> None:
        """Draw a line without a head."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = " dashed" if dashed else ""
        self._parts.append(f'<path class="arrow{dash}" d="{path}"/>')

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Draw a line of a colour through the points, as a curve of a plot."""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(
            f'<path class="{colour}" style="fill: none" stroke-width="2" d="{path}"/>'
        )

    def svg(self) -> str:
        """Return the figure."""
        light, dark = [_STYLE], [_DARK]
        for name, (fill, line, dark_fill, dark_line) in _COLOURS.items():
            light.append(f".{name} {{ fill: {fill}; stroke: {line} }}\n")
            dark.append(f".{name} {{ fill: {dark_fill}; stroke: {dark_line} }}\n")
        parts = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
            f'width="{WIDTH}" height="{self._height}" role="img" aria-labelledby="t d">\n'
            f'<title id="t">{escape(self._title)}</title>\n'
            f'<desc id="d">{escape(self._description)}</desc>\n'
            f"<style>\n{''.join(light)}"
            f"@media (prefers-color-scheme: dark) {{\n{''.join(dark)}}}\n</style>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse">'
            '<path class="head" d="M0 0 L10 5 L0 10 z"/></marker></defs>\n'
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" '
            f'height="{self._height - 1}" rx="10"/>\n'
            f"{parts}\n</svg>\n"
        )
