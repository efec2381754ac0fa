"""The states of a disk that is re-imaged with a lifeboat: each arrow a write and a flush."""

from __future__ import annotations

from canvas import Canvas

_STATES = (
    ("old", "armed", "the lifeboat is in its range, flushed, read back"),
    ("old", "placed", "every part of it was read and compared"),
    ("warn", "switched", "the old system's beginning is still there"),
    ("warn", "writing", "neither system has a table"),
    ("warn", "carrying", "the image is on the disk, read back"),
    ("warn", "carrying", "identity and marker, read back"),
    ("warn", "written", "all but one sector"),
    ("new", "the new system", "the range of the lifeboat is of no use"),
    ("new", "the new system", "nothing is left of the lifeboat"),
)
_WRITES = (
    "the journal: placed",
    "SWITCH 1: one sector",
    "zeros: the first MiB behind the switch, the last sector",
    "the image, zeros where it has none, the last MiB",
    "the root grown up to the lifeboat, files, the marker",
    "the backup's header; the rest of the first MiB; UEFI: sector 0",
    "SWITCH 2: the image's own sector",
    "zeros over the lifeboat",
)
_HIGH, _STEP, _TOP, _LEFT, _WIDE = 44, 78, 60, 160, 330


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        _TOP + _STEP * (len(_STATES) - 1) + _HIGH + 40,
        "States of the disk with a lifeboat",
        "; then ".join(_WRITES),
    )
    canvas.text(18, 34, "firmware boots", size=13, style="muted")
    canvas.text(_LEFT, 34, "what is on the medium, and the journal's state", size=13, style="muted")
    canvas.text(_LEFT + _WIDE + 20, 34, "written, then flushed", size=13, style="muted")
    groups = {"old": "the old system", "warn": "the lifeboat", "new": "the new system"}
    boxes = []
    for number, (colour, title, line) in enumerate(_STATES):
        y = _TOP + number * _STEP
        boxes.append(canvas.box(_LEFT, y, _WIDE, _HIGH, colour, title=title, lines=[line], size=13))
    for colour, name in groups.items():
        rows = [box for box, state in zip(boxes, _STATES, strict=True) if state[0] == colour]
        top, end = rows[0].y, rows[-1].y + _HIGH
        canvas.rule((146, top), (146, end), dashed=False)
        canvas.text(18, (top + end) / 2 + 5, name, size=13, style="bold")
    for number, write in enumerate(_WRITES):
        above, below = boxes[number], boxes[number + 1]
        canvas.arrow(above.bottom, (below.top[0], below.top[1] - 1))
        middle = (above.bottom[1] + below.top[1]) / 2 + 5
        style = "bold" if write.startswith("SWITCH") else "muted"
        canvas.text(_LEFT + _WIDE / 2 + 14, middle, write, size=13, style=style)
    first, last = boxes[2], boxes[6]
    x = _LEFT + _WIDE + 242
    canvas.arrow(
        (_LEFT + _WIDE, last.y + 32),
        (x, last.y + 32),
        (x, first.y + 22),
        (_LEFT + _WIDE + 1, first.y + 22),
        dashed=True,
    )
    canvas.lines(
        x + 10,
        first.y + 40,
        ("a cut:", "the lifeboat", "boots, compares", "and resumes"),
    )
    canvas.text(
        430,
        _TOP + _STEP * (len(_STATES) - 1) + _HIGH + 26,
        "Between two flushes any of the writes may be missing: what boots is that of the box above "
        "or of the box below.",
        size=12,
        style="muted",
        anchor="middle",
    )
    return canvas.svg()
