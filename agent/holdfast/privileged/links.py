"""Queueing disciplines and queue lengths of network interfaces, through tc(8) and ip(8).

tc is used because it knows every discipline that its kernel knows; its argument lists are made
here from checked words and never pass a shell.
"""

from __future__ import annotations

import errno
import itertools
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.node.links import active_queues, run_tool
from holdfast.privileged.writes import EVERY, QDISC_FLAGS, LinkWrite, Qdisc, QdiscWrite, Refused

_DEFAULT = "0:"
"""The handle of what the kernel attached by itself."""
_DROPS = "noop"


def set_qdisc(write: QdiscWrite) -> None:
    """Give an interface its queueing disciplines. What is right already is left alone."""
    name = _same_interface(write.interface, write.ifindex)
    for qdisc in (write.root, *write.leaves.values()):
        if qdisc is not None:
            qdisc.check()
    if write.leaves and (write.root is None or write.root.kind != "mq"):
        raise Refused("Only a root of kind mq has a qdisc for each queue.")
    if write.root is None:
        if _root(name).get("handle", _DEFAULT) != _DEFAULT:
            _tc("qdisc", "del", "dev", name, "root")
        return
    if write.root.kind == "noqueue":
        _tc("qdisc", "replace", "dev", name, "root", "noqueue")
        return
    if write.root.kind != "mq":
        # On one of the same kind, tc changes what is passed and leaves the rest, or refuses.
        now = _root(name)
        if now.get("kind") == write.root.kind and now["handle"] != _DEFAULT:
            _tc("qdisc", "del", "dev", name, "root")
        _tc("qdisc", "replace", "dev", name, "root", *_words(write.root))
        return
    _set_queues(name, write)


def _set_queues(name: str, write: QdiscWrite) -> None:
    """Make the root mq and give each queue what is asked for."""
    shown = _show(name)
    root = _root_of(shown)
    ours = root.get("kind") == "mq" and root["handle"] != _DEFAULT
    handle = root["handle"] if ours else _unused(shown)
    # With its present handle mq is unchanged; with another it is a new one, all of its queues with
    # the kernel's default, which nothing else restores.
    _tc("qdisc", "replace", "dev", name, "root", "handle", handle, "mq")
    if _needs_new_queues(_below(name), write):
        for another in (_unused(_show(name)), handle):
            # By way of another handle to the same, which filters and scripts may know.
            _tc("qdisc", "replace", "dev", name, "root", "handle", another, "mq")
    below = _below(name)
    every = write.leaves.get(EVERY)
    wanted = dict.fromkeys(below, every) if EVERY in write.leaves else write.leaves
    for queue, leaf in sorted(wanted.items()):
        parent = f"{handle}{queue:x}"
        if leaf is None:
            continue
        if leaf.kind != _DROPS:
            if below.get(queue, _DEFAULT) != _DEFAULT:
                _tc("qdisc", "del", "dev", name, "parent", parent)
            _tc("qdisc", "replace", "dev", name, "parent", parent, *_words(leaf))
        elif queue in below:
            # The kernel's default cannot be removed, only what was put there.
            _tc("qdisc", "replace", "dev", name, "parent", parent, "pfifo")
            _tc("qdisc", "del", "dev", name, "parent", parent)


def _needs_new_queues(below: Mapping[int, str], write: QdiscWrite) -> bool:
    if EVERY in write.leaves:
        queues = active_queues(write.interface, write.ifindex) or max(below, default=0)
        changed = write.leaves[EVERY] is None and any(leaf != _DEFAULT for leaf in below.values())
        return changed or len(below) < queues
    return any(
        leaf is None and below.get(queue) != _DEFAULT for queue, leaf in write.leaves.items()
    )


def _below(interface: str) -> dict[int, str]:
    """Return the handle of each queue's qdisc, by number of the queue.

    Only below the root: clsact and ingress have a parent of their own (`ffff:fff1`).
    """
    shown = _show(interface)
    handle = _root_of(shown).get("handle", _DEFAULT)
    # Below a root that the kernel attached, tc writes the parent as `:1`.
    major = "" if handle == _DEFAULT else handle.removesuffix(":")
    return {
        int(minor, 16): qdisc.get("handle", "")
        for qdisc in shown
        for parent, _, minor in (qdisc.get("parent", "").rpartition(":"),)
        if minor and parent == major
    }


def _unused(shown: Sequence[Mapping[str, Any]]) -> str:
    """Return a handle that no qdisc of an interface has."""
    used = {qdisc.get("handle") for qdisc in shown}
    return next(handle for number in itertools.count(1) if (handle := f"{number:x}:") not in used)


def set_queue_length(write: LinkWrite) -> None:
    """Set the length of an interface's transmit queue."""
    name = _same_interface(write.interface, write.ifindex)
    run_tool("ip", "link", "set", "dev", name, "txqueuelen", str(write.txqueuelen))


def _same_interface(name: str, ifindex: int) -> str:
    try:
        now = socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, "there is no such interface", name) from None
    if now != ifindex:
        raise OSError(errno.ENODEV, "another interface has this name now", name)
    return name


def _words(qdisc: Qdisc) -> list[str]:
    words = [qdisc.kind]
    for name, value in qdisc.parameters.items():
        words += [name] if name in QDISC_FLAGS else [name, value]
    return words


def _root(interface: str) -> Mapping[str, Any]:
    return _root_of(_show(interface))


def _root_of(shown: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((qdisc for qdisc in shown if qdisc.get("root")), {})


def _show(interface: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(_tc("-j", "qdisc", "show", "dev", interface) or "[]")
    return shown


def _tc(*arguments: str) -> str:
    return run_tool("tc", *arguments)
