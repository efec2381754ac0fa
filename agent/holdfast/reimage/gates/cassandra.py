"""Whether a node of Cassandra is up and normal, as `nodetool status` shows it."""

from __future__ import annotations

import re

from holdfast.reimage.gates.probes import NotReadyError, shown

_LINE = re.compile(r"([UD?])([NLJMS?])\s+(\S+)\s")
"""Up, down or unknown; normal, leaving, joining, moving or stopped; the address."""
_STATUS = {"U": "up", "D": "down", "?": "unknown"}
_STATE = {"N": "normal", "L": "leaving", "J": "joining", "M": "moving", "S": "stopped"}


def cassandra(output: str, address: str) -> str:
    """Check the output of `nodetool status` for the node of an address.

    One that sees itself up and all others down is cut off rather than good. Raises `NotReadyError`.
    """
    nodes = {
        match[3]: (match[1], match[2])
        for line in output.splitlines()
        if (match := _LINE.match(line)) is not None
    }
    if not nodes:
        raise NotReadyError(f"it is no output of nodetool status: {shown(output)!r}")
    found = nodes.pop(address, None)
    if found is None:
        raise NotReadyError(f"{address} is not among the {len(nodes)} nodes")
    if found != ("U", "N"):
        status, state = found
        raise NotReadyError(f"{address} is {_STATUS[status]} and {_STATE.get(state, 'unknown')}")
    up = sum(status == "U" for status, _ in nodes.values())
    if nodes and up == 0:
        raise NotReadyError(f"it sees none of its {len(nodes)} peers")
    return f"{address} is up and normal, and {up} of {len(nodes)} peers are up"
