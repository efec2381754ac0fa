"""Network interfaces and their queueing disciplines, as ip(8) and tc(8) report them."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where distributions put them; a service may have a PATH without the sbin directories.
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 10.0


class LinkError(OSError):
    """The tools are not there, or do not answer; the message is a clause."""


@dataclass(frozen=True)
class Link:
    """A network interface of this process's namespace."""

    name: str
    ifindex: int
    physical: bool
    """It belongs to a device of a bus, a virtual machine's included."""
    kind: str
    """`veth`, `bridge`, `tun` …; empty for physical ones and the loopback."""
    driver: str
    """Of a physical one; else the same as `kind`."""
    txqueuelen: int
    tx_queues: int
    """At most; see `active_queues`."""


@dataclass(frozen=True)
class ShownQdisc:
    """A line of `tc -j qdisc show`."""

    kind: str
    handle: str
    """`0:` for one that the kernel attached by itself."""
    root: bool
    parent: str
    options: Mapping[str, Any]


def read_links(sys: Path = Path("/sys")) -> Sequence[Link]:
    """Return all interfaces whose names are text. Raises `LinkError`."""
    shown = _json("ip", "-j", "-d", "link", "show")
    return [_link(interface, sys) for interface in shown if _tellable(interface["ifname"])]


def read_qdiscs() -> Mapping[str, Sequence[ShownQdisc]]:
    """Return the qdiscs of all interfaces, by name. Raises `LinkError`."""
    found: dict[str, list[ShownQdisc]] = {}
    for qdisc in _json("tc", "-j", "qdisc", "show"):
        found.setdefault(qdisc["dev"], []).append(
            ShownQdisc(
                kind=qdisc["kind"],
                handle=qdisc.get("handle", ""),
                root=bool(qdisc.get("root")),
                parent=qdisc.get("parent", ""),
                options=qdisc.get("options", {}),
            )
        )
    return found


def active_queues(name: str, ifindex: int, sys: Path = Path("/sys")) -> int | None:
    """Return how many transmit queues an interface uses now.

    None where /sys is not that of this process's network namespace.
    """
    where = sys / "class/net" / name
    try:
        if int((where / "ifindex").read_text()) != ifindex:
            return None
        return len(list((where / "queues").glob("tx-*"))) or None
    except (OSError, ValueError):
        return None


def default_routes() -> frozenset[str]:
    """Return the interfaces that a default route leads through. Raises `LinkError`."""
    routes = [
        *_json("ip", "-j", "route", "show", "default"),
        *_json("ip", "-j", "-6", "route", "show", "default"),
    ]
    return frozenset(route["dev"] for route in routes if "dev" in route)


def _link(shown: Mapping[str, Any], sys: Path) -> Link:
    name = shown["ifname"]
    kind = shown.get("linkinfo", {}).get("info_kind", "")
    device = sys / "class/net" / name / "device"
    driver = device / "driver"
    physical = not kind and ("parentdev" in shown or device.exists())
    return Link(
        name=name,
        ifindex=shown["ifindex"],
        physical=physical,
        kind=kind,
        driver=driver.resolve().name if physical and driver.exists() else kind,
        txqueuelen=shown.get("txqlen", 0),
        tx_queues=shown.get("num_tx_queues", 1),
    )


def run_tool(program: str, *arguments: str) -> str:
    """Run ip(8) or tc(8) and return its output.

    Raises `OSError` with its message. Words are passed as they are: there is no shell.
    """
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise OSError(errno.ENOENT, "is not installed (package iproute2)", program)
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, checked words, no shell
            [found, *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, "did not answer", program) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).removeprefix("RTNETLINK answers: ")
        said = said.removeprefix("Error: ").rstrip(".") or f"ended with {done.returncode}"
        number = errno.EPERM if "not permitted" in said else errno.EINVAL
        raise OSError(number, said, f"{program} {' '.join(arguments)}")
    return done.stdout


def _json(program: str, *arguments: str) -> list[dict[str, Any]]:
    try:
        answer: list[dict[str, Any]] = json.loads(
            run_tool(program, *arguments) or "[]", strict=False
        )
    except ValueError as error:
        raise LinkError(f"cannot be read: {program} answered no JSON ({error})") from error
    except OSError as error:
        raise LinkError(f"cannot be read: {program}: {error.strerror or error}") from error
    # Some versions answer `[{}]` for nothing.
    return [entry for entry in answer if entry]


def _tellable(name: str) -> bool:
    """Whether JSON can hold a name: the kernel takes bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name.isprintable()
