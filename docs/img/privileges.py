"""The privilege boundary: who believes whom."""

from __future__ import annotations

from canvas import Canvas


def draw() -> str:
    """Return the figure."""
    canvas = Canvas(
        440,
        "The privilege boundary",
        "Strangers reach the daemon with tokens only. The daemon, a user of its own, asks the "
        "helper by typed requests. The helper is root, has no network, and believes root's files.",
    )
    for x, title in ((20, "Strangers"), (300, "user holdfast"), (590, "root")):
        canvas.text(x, 32, title, size=16, style="bold")
    canvas.rule((276, 20), (276, 420))
    canvas.rule((566, 20), (566, 420))
    tcp = canvas.box(
        20, 60, 220, 62, title="network, browsers", lines=["a bearer token and TLS, by scope"]
    )
    group = canvas.box(
        20, 142, 220, 62, "warn", title="group holdfast", lines=["the unix socket: root-equivalent"]
    )
    data = canvas.box(
        20,
        224,
        220,
        82,
        title="data volume, images,",
        lines=["records, other nodes: parsed", "within bounds, then verified"],
    )
    store = canvas.box(
        20,
        326,
        220,
        82,
        title="datastore's user",
        lines=["owns the data; its files are", "opened beneath the root only"],
    )
    canvas.box(
        300,
        60,
        240,
        246,
        "new",
        title="daemon",
        lines=[
            "CAP_DAC_READ_SEARCH",
            "and CAP_FOWNER, no more;",
            "sees read-only what its unit lists",
            "",
            "reads what the datastore can read",
            "asks for changes, makes none",
            "audits each mutating call",
        ],
    )
    helper = canvas.box(
        590,
        60,
        250,
        150,
        "warn",
        title="helper",
        lines=[
            "no network, started per request",
            "checks names, values, signatures",
            "by root's own settings and keys",
            "records what was there before",
        ],
    )
    system = canvas.box(
        590,
        246,
        250,
        60,
        "old",
        title="/proc/sys  /sys  /etc  /boot",
        code=True,
        size=13,
        lines=["an allow-list of names"],
    )
    imager = canvas.box(
        590,
        342,
        250,
        66,
        "warn",
        title="imager",
        lines=["alone in one boot; believes the", "helper's job, and digests"],
    )
    canvas.arrow(tcp.right, (299, tcp.right[1]))
    canvas.arrow(group.right, (299, group.right[1]))
    canvas.arrow(data.right, (299, data.right[1]))
    canvas.arrow((540, 135), (589, 135))
    canvas.text(
        420, 330, "Between the two: a socket for this", size=12.5, style="muted", anchor="middle"
    )
    canvas.text(
        420,
        347,
        "user alone, and a closed list of typed",
        size=12.5,
        style="muted",
        anchor="middle",
    )
    canvas.text(
        420, 364, "requests, with no text to interpret", size=12.5, style="muted", anchor="middle"
    )
    canvas.arrow(helper.bottom, system.top)
    canvas.arrow(system.bottom, imager.top)
    canvas.arrow(store.top, data.bottom)
    return canvas.svg()
