"""Everything that is reported of this machine, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.node.identity import identify
from holdfast.node.memory import read_memory
from holdfast.node.models import Instance, NodeReport
from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.topology import describe_root

_LABEL_PREFIX = "label_"


@dataclass(frozen=True)
class Place:
    """Where a node belongs, as its operator set it and as its data have it."""

    node_id: str | None = None
    """None while the data volume is missing."""
    cluster: str = ""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Node:
    """Inspects the machine, anew each time: disks come and go, and so do roots."""

    def __init__(self, *, roots: Sequence[Path], place: Place | None = None) -> None:
        self.place = place or Place()
        self._roots = tuple(roots)
        self._sysfs = Sysfs()
        self._image = identify().image_id or ""
        self._instance: Instance | None = None

    def learn(self, instance: Instance) -> None:
        """Set what is known of the instance."""
        self._instance = instance

    def report(self) -> NodeReport:
        """Read everything; blocks for a few milliseconds. Raises `OSError` without /proc."""
        return NodeReport(
            **identify().model_dump(),
            node_id=self.place.node_id,
            cluster=self.place.cluster,
            group=self.place.group,
            labels=dict(self.place.labels),
            instance=self._instance,
            memory=read_memory(),
            roots=[describe_root(root, sysfs=self._sysfs) for root in self._roots],
        )

    def here(self) -> tuple[str | None, str]:
        """Return the id of this node and its zone: the label `zone`, or that of the instance."""
        instance = self._instance
        known = self.place.labels.get("zone") or (instance and instance.zone)
        return self.place.node_id, known or ""

    def info(self) -> Mapping[str, str]:
        """Return what identifies this node, for a metric; "" is not known. Reads nothing."""
        instance = self._instance
        return {
            "node_id": self.place.node_id or "",
            "cluster": self.place.cluster,
            "group": self.place.group,
            "image": self._image,
            "launch_image": (instance and instance.launch_image) or "",
            "instance_id": (instance and instance.id) or "",
            "instance_type": (instance and instance.type) or "",
            "zone": (instance and instance.zone) or "",
            **{_LABEL_PREFIX + name: value for name, value in self.place.labels.items()},
        }
