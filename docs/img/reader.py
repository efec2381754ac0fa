"""The pipeline of the reader: how files become digests."""

from __future__ import annotations

from canvas import Canvas


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        350,
        "The pipeline of the reader",
        "The survey lists files by size. Threads take the largest and the smallest, keep reads in "
        "flight past the page cache, and hand bytes on in order to digests and the manifest.",
    )
    canvas.text(20, 36, "From files to digests", size=16, style="bold")
    survey = canvas.box(
        20, 110, 130, 84, title="survey", lines=["statx(2), nothing", "is opened; files", "by size"]
    )
    threads = canvas.box(196, 60, 190, 184, "faint")
    canvas.text(291, 82, "a thread per processor", style="bold", anchor="middle", size=13)
    canvas.box(210, 96, 162, 40, title="", lines=["one from the largest file"])
    canvas.box(210, 144, 162, 40, title="", lines=["one from the smallest"])
    canvas.box(210, 192, 162, 40, title="", lines=["the others from the rest"])
    queue = canvas.box(
        432,
        60,
        180,
        84,
        "new",
        title="reads in flight",
        lines=["32 x 1 MiB for a disk,", "64 x 512 KiB for an array;", "shared by the threads"],
    )
    ring = canvas.box(
        432,
        160,
        180,
        84,
        "new",
        title="ring of buffers",
        lines=["≤ 32 MiB, huge pages,", "used again while they", "are in the cache"],
    )
    digest = canvas.box(
        658,
        60,
        182,
        84,
        "data",
        title="digests",
        lines=["in order, one pass;", "a state per chunk", "of 64 MiB"],
    )
    manifest = canvas.box(
        658,
        160,
        182,
        84,
        "data",
        title="manifest",
        lines=["sorted lines, a trailer;", "a checkpoint notes", "what is finished"],
    )
    canvas.arrow(survey.right, (195, 152))
    canvas.arrow((387, 102), queue.left)
    canvas.arrow(queue.bottom, ring.top, both=True)
    canvas.arrow(ring.right, (635, ring.right[1]), (635, digest.left[1]), digest.left)
    canvas.arrow(digest.bottom, manifest.top)
    canvas.rule((threads.x, 262), (840, 262))
    canvas.text(196, 286, "How bytes are read, in this order of preference:", style="bold", size=13)
    canvas.lines(
        196,
        308,
        [
            "O_DIRECT by io_uring (or preadv2)  →  RWF_DONTCACHE  →  through the page cache,",
            "dropping only what was not there before. What the datastore has in memory stays.",
        ],
        size=12.5,
    )
    return canvas.svg()
