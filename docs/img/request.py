"""The way of a request, from route to system call."""

from __future__ import annotations

from itertools import pairwise

from canvas import Canvas

_STEPS = (
    (
        "1",
        "route",
        "api/routes/pagecache.py",
        "validates the body; can such a load be started?",
        "plain",
    ),
    (
        "2",
        "operations",
        "operations/service.py",
        "idempotency key, conflicts; commits a row to SQLite",
        "new",
    ),
    (
        "3",
        "runner",
        "operations/runner.py",
        "runs the kind's function in a thread: PageCache._load",
        "new",
    ),
    ("4", "binding", "rust/binding", "parses the request, releases the GIL", "faint"),
    (
        "5",
        "engine",
        "rust/engine/src/pagecache/load",
        "opens files, finds what is absent, orders it",
        "data",
    ),
    (
        "6",
        "kernel",
        "fadvise(2), mincore(2), cachestat(2)",
        "reads pages; is asked whether they came",
        "old",
    ),
)


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        470,
        "The way of a request",
        "POST /v1/pagecache/loads goes from the route over operations, runner, binding and engine "
        "to the kernel. It is answered with 202 once its row is committed.",
    )
    canvas.text(190, 32, "POST /v1/pagecache/loads", style="bold code")
    y = 48
    boxes = []
    for number, name, file, does, colour in _STEPS:
        box = canvas.box(190, y, 420, 52, colour)
        canvas.text(206, y + 22, f"{number}  {name}", style="bold")
        canvas.text(322, y + 22, file, size=12.5, style="code")
        canvas.text(206, y + 41, does, size=12.5, style="muted")
        boxes.append(box)
        y += 69
    for upper, lower in pairwise(boxes):
        canvas.arrow(upper.bottom, lower.top)
    canvas.box(20, 92, 120, 60, title="client", lines=["curl, holdfast"])
    canvas.arrow((140, 106), (165, 106), (165, 74), (189, 74))
    canvas.arrow((189, 143), (141, 143))
    canvas.text(20, 176, "202, an operation,", size=12.5, style="muted")
    canvas.text(20, 193, "once it is on the disk", size=12.5, style="muted")
    progress = canvas.box(
        660, 300, 180, 74, "warn", title="Progress", lines=["atomic counters,", "a flag to cancel"]
    )
    canvas.arrow(boxes[4].right, (635, boxes[4].right[1]), (635, 337), progress.left)
    readers = canvas.box(
        660,
        130,
        180,
        90,
        title="readers",
        lines=["GET …/operations/{id},", "its events, /metrics;", "cancel sets the flag"],
    )
    canvas.arrow(readers.bottom, progress.top, both=True)
    canvas.text(760, 264, "without a lock", size=12.5, style="muted")
    return canvas.svg()
