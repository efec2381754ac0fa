"""Writes the figures of the documents: `python docs/img/figures.py`.

With `--check` nothing is written, and it ends with 1 if a figure in the tree differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import layers
import lifeboat
import node
import privileges
import reader
import reimage_states
import request
import warm_start

_HERE = Path(__file__).parent
_FIGURES = {
    "layers": layers.draw,
    "lifeboat": lifeboat.draw,
    "node": node.draw,
    "privileges": privileges.draw,
    "reader": reader.draw,
    "reimage-states": reimage_states.draw,
    "request": request.draw,
    "warm-start": warm_start.draw,
}


def main() -> int:
    """Write or check all figures; return the exit code."""
    check = sys.argv[1:] == ["--check"]
    differing = []
    for name, draw in _FIGURES.items():
        path, figure = _HERE / f"{name}.svg", draw()
        if not check:
            path.write_text(figure)
        elif not path.exists() or path.read_text() != figure:
            differing.append(path.name)
    if differing:
        print(f"{', '.join(differing)}: not what its script draws; run `make figures`")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
