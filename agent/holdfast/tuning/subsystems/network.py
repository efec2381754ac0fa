"""Network interfaces: queueing disciplines, and the length of the transmit queue."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.node.links import LinkError, ShownQdisc, active_queues, read_links, read_qdiscs
from holdfast.privileged import Write
from holdfast.privileged.writes import LinkWrite, QdiscWrite
from holdfast.tuning.planning.knobs import Knob, Observed
from holdfast.tuning.subsystems import qdiscs
from holdfast.tuning.subsystems.plain import Plain

_NAMES = ("qdisc", "txqueuelen")


class Network(Plain):
    """The knobs' targets are interfaces; values of `qdisc` are as in `qdiscs.py`."""

    name = "network"

    def observe(self, knobs: Sequence[Knob]) -> Mapping[Knob, Observed]:
        """Ask ip(8) and tc(8), once each."""
        if not knobs:
            return {}
        try:
            links = {link.name: link for link in read_links()}
            shown = read_qdiscs() if any(knob.name == "qdisc" for knob in knobs) else {}
        except LinkError as error:
            return {knob: Observed(None, str(error)) for knob in knobs}
        found: dict[Knob, Observed] = {}
        for knob in knobs:
            link = links.get(knob.target)
            if link is None:
                found[knob] = Observed(None, "is gone", gone=True)
            elif knob.name == "txqueuelen":
                found[knob] = Observed(str(link.txqueuelen))
            else:
                queues = active_queues(link.name, link.ifindex)
                found[knob] = _qdisc(shown.get(knob.target, ()), queues)
        return found

    def same(self, knob: Knob, desired: str, observed: str) -> bool:
        """Whether the kinds are those desired, and each parameter that was given."""
        del knob
        if desired == observed or desired[:1].isdigit():
            return desired == observed
        return qdiscs.covers(desired, observed)

    def write(self, knob: Knob, value: str, identity: str) -> Write:
        """Set the queue's length, or make the qdiscs that the text describes."""
        ifindex = int(identity or 0)
        if knob.name == "txqueuelen":
            return LinkWrite(interface=knob.target, ifindex=ifindex, txqueuelen=int(value))
        root, leaves = qdiscs.parse(value)
        return QdiscWrite(interface=knob.target, ifindex=ifindex, root=root, leaves=leaves)

    def identity(self, knob: Knob) -> str:
        """Return the number that the kernel gave the interface when it appeared."""
        try:
            return str(socket.if_nametoindex(knob.target))
        except OSError:
            return ""

    def follow(self, knob: Knob, identity: str) -> Knob:
        """Return the knob of the interface of this number under its present name."""
        try:
            return replace(knob, target=socket.if_indextoname(int(identity or 0)))
        except (OSError, ValueError):
            return knob

    def companions(self, knob: Knob) -> Sequence[Knob]:
        """Name the interface's other knob: a queue of no length gets one with a qdisc."""
        return [Knob(self.name, knob.target, name) for name in _NAMES if name != knob.name]

    def rank(self, knob: Knob) -> int:
        """Put the qdisc first."""
        return _NAMES.index(knob.name)


def _qdisc(shown: Sequence[ShownQdisc], queues: int | None) -> Observed:
    try:
        return Observed(qdiscs.observed(shown, queues))
    except qdiscs.UnknownQdiscError as error:
        return Observed(None, str(error))
