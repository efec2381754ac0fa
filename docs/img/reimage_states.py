"""The states of a re-imaging, drawn from the table in agent/holdfast/reimage/states.py.

The labels are the table's. A transition that has no line here, or a line that has no transition,
is an error, so that the figure cannot differ from the table.
"""

from __future__ import annotations

from canvas import Box, Canvas
from holdfast.reimage.states import TRANSITIONS, ReimageState

_S = ReimageState
_WIDE, _HIGH = 116, 46
_PLACES = {
    _S.IDLE: (20, 92, "plain"),
    _S.STAGING: (196, 92, "plain"),
    _S.STAGED: (366, 92, "plain"),
    _S.ARMED: (536, 92, "warn"),
    _S.REBOOTING: (706, 92, "warn"),
    _S.IMAGING: (586, 236, "warn"),
    _S.FAILED: (60, 330, "old"),
    _S.UNKNOWN: (300, 330, "bad"),
    _S.BOOTED: (640, 330, "new"),
    _S.CONFIRMED: (500, 428, "data"),
    _S.UNCONFIRMED: (500, 516, "bad"),
}
_BEFORE = (_S.STAGING, _S.STAGED, _S.ARMED, _S.REBOOTING)
"""What is left for the old system, by cancelling or by a fault."""
_BOOTS = (_S.STAGED, _S.ARMED, _S.REBOOTING)
"""What may be seen after a boot."""


class _Machine:
    """Draws transitions, each once, and remembers which."""

    def __init__(self, canvas: Canvas, boxes: dict[ReimageState, Box]) -> None:
        self.canvas = canvas
        self.boxes = boxes
        self.drawn: set[tuple[ReimageState, ReimageState]] = set()

    def line(
        self,
        sources: tuple[ReimageState, ...],
        target: ReimageState,
        points: list[tuple[float, float]],
        label_at: tuple[float, float],
        *,
        anchor: str = "middle",
        note: str = "",
    ) -> None:
        """Draw a single line from some states to another, with the label of the table."""
        edges = {(source, target) for source in sources}
        (label,) = {TRANSITIONS[edge] for edge in edges}
        if edges & self.drawn:
            raise ValueError(f"drawn twice: {edges & self.drawn}")
        self.drawn |= edges
        self.canvas.arrow(*points)
        text = f"{label}{note}"
        self.canvas.text(*label_at, text, size=12, style="muted", anchor=anchor)


def draw() -> str:
    """Return the figure. Raises `ValueError` if it is not of the table's transitions."""
    canvas = Canvas(
        626,
        "States of a re-imaging",
        "; ".join(
            f"{source} to {target}: {label}" for (source, target), label in TRANSITIONS.items()
        ),
    )
    canvas.box(188, 52, 656, 146, "faint", dashed=True)
    canvas.box(360, 64, 474, 124, "faint", dashed=True)
    boxes = {
        state: canvas.box(
            x,
            y,
            _WIDE,
            _HIGH,
            colour,
            title=state.value,
            code=True,
            dashed=state is _S.IMAGING,
            size=13,
        )
        for state, (x, y, colour) in _PLACES.items()
    }
    machine = _Machine(canvas, boxes)
    for source, target in ((_S.IDLE, _S.STAGING), (_S.STAGING, _S.STAGED), (_S.STAGED, _S.ARMED)):
        _right(machine, source, target)
    _right(machine, _S.ARMED, _S.REBOOTING)
    machine.line(
        (_S.ARMED,), _S.STAGED, [(580, 138), (580, 158), (424, 158), (424, 139)], (502, 174)
    )
    machine.line(
        (_S.REBOOTING,), _S.ARMED, [(764, 138), (764, 158), (608, 158), (608, 139)], (686, 174)
    )
    machine.line(
        _BEFORE,
        _S.IDLE,
        [(512, 52), (512, 30), (78, 30), (78, 91)],
        (295, 22),
        note=": the boot loader is as it was",
    )
    machine.line(
        _BEFORE,
        _S.FAILED,
        [(214, 198), (214, 230), (118, 230), (118, 329)],
        (128, 262),
        anchor="start",
    )
    _after_the_boot(machine)
    if machine.drawn != set(TRANSITIONS):
        raise ValueError(f"not drawn: {set(TRANSITIONS) - machine.drawn}")
    canvas.text(
        430,
        606,
        "A new attempt begins in idle, whatever state the last one ended in. "
        "`imaging` is reported by the imager alone.",
        size=12,
        style="muted",
        anchor="middle",
    )
    return canvas.svg()


def _right(machine: _Machine, source: ReimageState, target: ReimageState) -> None:
    start, end = machine.boxes[source].right, machine.boxes[target].left
    middle = ((start[0] + end[0]) / 2 - 4, start[1] - 7)
    machine.line((source,), target, [start, end], middle)


def _after_the_boot(machine: _Machine) -> None:
    canvas = machine.canvas
    canvas.arrow((644, 188), (644, 235))
    canvas.text(654, 216, "a boot", size=12, style="muted")
    machine.line(_BOOTS, _S.BOOTED, [(672, 282), (672, 329)], (682, 310), anchor="start")
    machine.line(
        _BOOTS, _S.UNKNOWN, [(586, 259), (358, 259), (358, 329)], (366, 252), anchor="start"
    )
    machine.line((_S.UNKNOWN,), _S.FAILED, [(300, 353), (177, 353)], (238, 392))
    machine.line((_S.UNKNOWN,), _S.BOOTED, [(416, 353), (639, 353)], (528, 346))
    machine.line((_S.UNKNOWN,), _S.CONFIRMED, [(384, 376), (384, 451), (499, 451)], (440, 444))
    machine.line(
        (_S.UNKNOWN,),
        _S.UNCONFIRMED,
        [(330, 376), (330, 539), (499, 539)],
        (340, 532),
        anchor="start",
    )
    machine.line(
        (_S.BOOTED,), _S.CONFIRMED, [(672, 376), (672, 451), (617, 451)], (664, 412), anchor="end"
    )
    machine.line(
        (_S.BOOTED,), _S.UNCONFIRMED, [(726, 376), (726, 539), (617, 539)], (718, 532), anchor="end"
    )
    machine.line(
        (_S.UNCONFIRMED,), _S.CONFIRMED, [(558, 516), (558, 475)], (566, 500), anchor="start"
    )
    machine.line(
        (_S.UNCONFIRMED,),
        _S.UNCONFIRMED,
        [(536, 562), (536, 580), (580, 580), (580, 563)],
        (590, 578),
        anchor="start",
        note=" again",
    )
