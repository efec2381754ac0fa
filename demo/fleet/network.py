"""A bridge with the controller and the web server on one side, and nodes in namespaces behind it.

Everything is made in a network namespace of the demo's own, and is gone with its last process.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.machine.namespaces import Namespaces

BRIDGE = "fleet"
CONTROLLER = "10.77.0.1"
_PREFIX = 16


def make_bridge() -> None:
    """Make the bridge, with the controller's address. Raises `CalledProcessError`."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{CONTROLLER}/{_PREFIX}", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def connect(name: str, address: str, place: Namespaces) -> None:
    """Give namespaces an interface on the bridge. Raises `CalledProcessError`."""
    peer = ("peer", "name", "eth0", "netns", str(place.pid))
    _ip("link", "add", name, "type", "veth", *peer)
    _ip("link", "set", name, "master", BRIDGE, "up")
    place.run("ip", "address", "add", f"{address}/{_PREFIX}", "dev", "eth0")
    place.run("ip", "link", "set", "eth0", "up")


def name_hosts(addresses: Mapping[str, str], file: Path) -> None:
    """Have names be known to the demo's own processes. Raises `CalledProcessError`."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    file.write_text("\n".join(lines) + "\n")
    subprocess.run(["mount", "--bind", str(file), "/etc/hosts"], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
