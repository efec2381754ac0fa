"""The network as the imager sets it up: the interface of the default route, and its addresses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from holdfast.node.links import LinkError, read_links, run_tool
from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles

_RESOLVED = "/run/systemd/resolve/resolv.conf"


def describe_network(machine: MachineFiles) -> dict[str, Any] | str:
    """Return the job's `network`, or a sentence on why there is none. Raises `OSError`."""
    routes = _json("ip", "-j", "-4", "route", "show", "default")
    if not routes:
        return "There is no default route, so the imager has no network."
    route = min(routes, key=lambda route: int(route.get("metric", 0)))
    name = route.get("dev", "")
    link = next((link for link in read_links(machine.sys) if link.name == name), None)
    if link is None or not link.physical:
        kind = "unknown" if link is None else link.kind
        return (
            f"The default route leads through {name}, which is no network card ({kind}); the "
            "imager cannot set it up, so it has no network."
        )
    shown = next(iter(_json("ip", "-j", "-4", "addr", "show", "dev", name)), {})
    mac = read_text(machine.sys / "class/net" / name / "address")
    if mac is None:
        return f"{name} has no hardware address, so the imager has no network."
    addresses = [
        address
        for address in shown.get("addr_info", [])
        if address.get("scope") == "global" and "local" in address
    ]
    static = {
        "addresses": [f"{address['local']}/{address['prefixlen']}" for address in addresses],
        "gateway": route.get("gateway"),
        "dns": list(name_servers(machine)),
        "mtu": int(shown.get("mtu", 1500)),
    }
    return {
        "interface": {"mac": mac, "name": name},
        # An address with a lifetime came from DHCP.
        "dhcp": any(address.get("dynamic") for address in addresses) or not addresses,
        "static": static if addresses else None,
    }


def name_servers(machine: MachineFiles) -> Sequence[str]:
    """Return the name servers of this machine, those behind a local resolver's stub."""
    for path in ("/etc/resolv.conf", _RESOLVED):
        text = read_text(machine.path(path)) or ""
        words = (line.split() for line in text.splitlines())
        found = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
        usable = [address for address in found if _reachable(address)]
        if usable:
            return usable
    return []


def _reachable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not parsed.is_loopback


def _json(program: str, *arguments: str) -> list[dict[str, Any]]:
    try:
        answer: list[dict[str, Any]] = json.loads(run_tool(program, *arguments) or "[]")
    except ValueError as error:
        raise LinkError(f"{program} answered no JSON ({error})") from error
    return [entry for entry in answer if entry]
