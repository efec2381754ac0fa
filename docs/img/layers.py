"""Layers of the code, and what runs apart."""

from __future__ import annotations

from canvas import Canvas

_LEFT, _WIDE = 20, 610


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        470,
        "Layers of holdfast",
        "Imports run downwards: command line and HTTP, capabilities, shared packages, binding, "
        "engine and media. The helper and the imager are programs of their own.",
    )
    canvas.text(
        _LEFT, 30, "Imports run downwards; daemon.py wires the parts", style="muted", size=13
    )
    canvas.box(
        _LEFT, 44, 300, 52, title="cli", code=True, lines=["a client of the API, or --local"]
    )
    canvas.box(330, 44, 300, 52, title="api", code=True, lines=["routes, contract, http"])
    width = 93
    for number, (name, line) in enumerate(
        (
            ("pagecache", "dump, load"),
            ("manifests", "build, verify"),
            ("memory", "save, restore"),
            ("transfer", "offer, pull"),
            ("tuning", "plan, apply"),
            ("reimage", "stage, confirm"),
        )
    ):
        x = _LEFT + number * (width + 10)
        canvas.box(x, 120, width, 60, "new", title=name, code=True, lines=[line])
    canvas.box(
        _LEFT,
        204,
        _WIDE,
        64,
        title="records  storage  operations  node  signing  config",
        code=True,
        lines=["stored files, confined paths, long work, what this machine is"],
    )
    canvas.box(
        _LEFT,
        292,
        300,
        52,
        "faint",
        title="binding",
        code=True,
        lines=["PyO3: converts, frees the GIL"],
    )
    privileged = canvas.box(
        330,
        292,
        300,
        52,
        "warn",
        title="privileged",
        code=True,
        lines=["a closed list of typed requests"],
    )
    canvas.box(
        _LEFT,
        368,
        300,
        82,
        "data",
        title="engine, transfer, memory",
        code=True,
        lines=["walk, read, hash, residency,", "record files; no Python"],
    )
    media = canvas.box(
        330,
        368,
        300,
        82,
        "data",
        title="media",
        code=True,
        lines=["formats on disk:", "tables, file systems; no I/O"],
    )
    for x in (170, 480):
        canvas.arrow((x, 97), (x, 119))
        canvas.arrow((x, 181), (x, 203))
        canvas.arrow((x, 269), (x, 291))
    canvas.arrow((170, 345), (170, 367))
    canvas.arrow((321, 409), (329, 409))

    canvas.rule((650, 30), (650, 450))
    canvas.text(668, 60, "Programs of their own", style="bold")
    helper = canvas.box(
        668,
        276,
        172,
        84,
        "warn",
        title="helper",
        lines=["root, no network;", "writes /proc/sys, /sys,", "/etc, /boot"],
    )
    canvas.arrow(privileged.right, helper.left, both=True)
    imager = canvas.box(
        668,
        372,
        172,
        74,
        "warn",
        title="imager",
        lines=["static, in an initramfs;", "writes the system disk"],
    )
    canvas.arrow(imager.left, media.right)
    canvas.box(
        668,
        84,
        172,
        64,
        title="datastore",
        lines=["starts after the load,", "stops before the dump"],
    )
    canvas.box(
        668,
        172,
        172,
        64,
        title="controllers",
        lines=["curl, Ansible, a browser:", "HTTP and a token"],
    )
    return canvas.svg()
