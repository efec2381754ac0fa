"""The picture of README.md: a node before, during and after a re-imaging."""

from __future__ import annotations

from canvas import Canvas

_COLUMNS = (24, 312, 600)
_WIDE = 236


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        448,
        "A node before, during and after re-imaging",
        "The system's disk is written with the new image. Identity is carried over to it, the "
        "data volume is not written, and the page cache is loaded again from a dump.",
    )
    for x, title, subtitle in zip(
        _COLUMNS,
        ("Before", "During", "After"),
        (
            "holdfast dumps, records, stages",
            "the imager runs in memory",
            "holdfast loads, verifies",
        ),
        strict=True,
    ):
        canvas.text(x, 36, title, size=18, style="bold")
        canvas.text(x, 56, subtitle, size=13, style="muted")
        canvas.box(x - 8, 70, _WIDE + 16, 226, "faint")
    old, writing, new = _COLUMNS

    # Memory.
    memory = 84
    canvas.box(old, memory, _WIDE, 50, "data", title="page cache: hot", lines=["datastore serves"])
    canvas.box(
        writing,
        memory,
        _WIDE,
        50,
        "plain",
        title="imager",
        lines=["verify → write → read back"],
        dashed=True,
    )
    canvas.box(
        new, memory, _WIDE, 50, "data", title="page cache: hot again", lines=["datastore serves"]
    )

    # The system's disk.
    disk = 148
    canvas.box(old, disk, _WIDE, 134, "old")
    canvas.text(old + 14, disk + 24, "system disk: old image", style="bold")
    canvas.box(writing, disk, _WIDE, 58, "plain")
    canvas.text(writing + 14, disk + 24, "system disk: being written", style="bold")
    canvas.bar(writing + 14, disk + 36, _WIDE - 28, 12, 0.6)
    canvas.box(new, disk, _WIDE, 134, "new")
    canvas.text(new + 14, disk + 24, "system disk: new image", style="bold")
    kept = ["SSH host keys, machine-id", "hostname, holdfast's settings"]
    first, second, third = (
        canvas.box(
            x + 14, disk + 64, _WIDE - 28, 58, "data", title=title, lines=kept, size=13, dashed=held
        )
        for x, title, held in (
            (old, "identity", False),
            (writing, "identity, in memory", True),
            (new, "identity", False),
        )
    )
    canvas.arrow(first.right, second.left)
    canvas.arrow(second.right, third.left)

    # The data volume is one strip, below all three.
    volume = 342
    canvas.box(16, volume, 828, 88, "data")
    canvas.text(32, volume + 27, "data volume /mnt/data: stays as it is", size=15, style="bold")
    canvas.text(
        32,
        volume + 50,
        "The datastore's files, and .holdfast: cache dump, manifest, staged image, progress of the "
        "attempt.",
        size=13,
        style="muted",
    )
    canvas.text(
        32,
        volume + 71,
        "Afterwards the manifest proves each byte, and the cache is loaded before the datastore "
        "starts.",
        size=13,
        style="muted",
    )
    for x, label, down in (
        (old, "dump, manifest, image", True),
        (writing, "image, read only", False),
        (new, "cache, proof", False),
    ):
        middle = x + 40
        ends = ((middle, 297), (middle, volume - 2))
        canvas.arrow(*(ends if down else reversed(ends)))
        canvas.text(middle + 14, 324, label, size=13, style="muted")
    return canvas.svg()
