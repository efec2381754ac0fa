"""What a profile can ask of the machine: variables, block devices with roles, interfaces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import psutil

from holdfast.node.links import Link, LinkError, default_routes, read_links
from holdfast.node.models import BlockDevice
from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.mounts import read_mounts
from holdfast.node.storage.topology import devices_below
from holdfast.node.storage.volumes import missing
from holdfast.privileged.writes import is_device

Selector = Mapping[str, list[str] | bool]


@dataclass
class Device:
    """A block device that has a queue of its own, and how it can be selected."""

    described: BlockDevice
    roles: set[str] = field(default_factory=set)
    mounts: set[str] = field(default_factory=set)
    """Mount points of the file systems on it."""

    @cached_property
    def bus(self) -> str:
        """How it is attached, by the kernel's word for it; empty for arrays and the like."""
        link = Path("/sys/class/block") / self.described.name / "device/subsystem"
        # With several paths to one namespace it is called nvme-subsystem.
        return link.resolve().name.partition("-")[0] if link.exists() else ""


class Inventory:
    """A snapshot of the machine, taken once: make a new one to inspect it again."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._sysfs = Sysfs()

    @cached_property
    def variables(self) -> dict[str, int | float]:
        """The variables that expressions in profiles may use."""
        memory = psutil.virtual_memory().total
        devices = self.devices.values()

        def count(role: str) -> int:
            return sum(role in device.roles for device in devices)

        return {
            "cpus": psutil.cpu_count() or 1,
            "numa_nodes": max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))),
            "page_size": os.sysconf("SC_PAGE_SIZE"),
            "memory_bytes": memory,
            "memory_kib": memory >> 10,
            "memory_mib": memory >> 20,
            "memory_gib": memory >> 30,
            "disks": sum(device.described.type == "disk" for device in devices),
            "data_disks": count("data-disk"),
            "arrays": count("array"),
            "array_members": count("array-member"),
            "interfaces": sum(link.physical for link in self.links),
        }

    @cached_property
    def devices(self) -> dict[str, Device]:
        """Block devices with a queue and a size, by the kernel's name."""
        found: dict[str, Device] = {}
        base = Path("/sys/class/block")
        for name in sorted(entry.name for entry in base.iterdir()):
            if not is_device(name) or not (base / name / "queue").is_dir():
                continue
            described = self._sysfs.describe(name)
            if described is not None and described.size_bytes:
                found[name] = Device(described)
        for device in list(found.values()):
            if device.described.type == "md":
                device.roles.add("array")
                for below in self._bottoms(device.described.name):
                    if below in found:
                        found[below].roles.add("array-member")
        self._add_mounts(found)
        return found

    @cached_property
    def links(self) -> Sequence[Link]:
        """Network interfaces but the loopback; none where ip(8) does not answer."""
        try:
            return [link for link in read_links() if link.name != "lo"]
        except LinkError:
            return []

    @cached_property
    def _default_routes(self) -> frozenset[str]:
        try:
            return default_routes()
        except LinkError:
            return frozenset()

    def select_devices(self, select: Selector) -> list[Device]:
        """Return the devices that a `[[block]]` means."""
        return [device for device in self.devices.values() if self._matches(device, select)]

    def select_links(self, select: Selector) -> list[Link]:
        """Return the interfaces that a `[[network]]` means."""
        return [link for link in self.links if self._link_matches(link, select)]

    def _link_matches(self, link: Link, select: Selector) -> bool:
        for key, wanted in select.items():
            match key:
                case "physical":
                    right = link.physical is wanted
                case "default_route":
                    right = (link.name in self._default_routes) is wanted
                case "driver":
                    right = _any(wanted, link.driver)
                case _:
                    right = _any(wanted, link.name)
            if not right:
                return False
        return True

    @staticmethod
    def _matches(device: Device, select: Selector) -> bool:
        known = device.described
        for key, wanted in select.items():
            match key:
                case "role":
                    right = isinstance(wanted, list) and not device.roles.isdisjoint(wanted)
                case "mount":
                    right = isinstance(wanted, list) and not device.mounts.isdisjoint(wanted)
                case "bus":
                    right = isinstance(wanted, list) and device.bus in wanted
                case "rotational":
                    right = known.rotational is wanted
                case "backing_file":
                    right = known.type == "loop" and _any(wanted, known.detail or "")
                case _:
                    right = _any(wanted, getattr(known, key) or "")
            if not right:
                return False
        return True

    def _add_mounts(self, found: Mapping[str, Device]) -> None:
        mounts = read_mounts()
        # Of several mounts on one point the last one is seen.
        for mount in {entry.point: entry for entry in mounts}.values():
            stack = devices_below(mount, self._sysfs)
            for described in stack:
                if described.name in found:
                    found[described.name].mounts.add(mount.point)
            if mount.point == "/":
                self._give(found, stack, "root-disk")
        for root in self._roots:
            real = Path(os.path.realpath(root))
            holding = max(
                (
                    numbered
                    for numbered in enumerate(mounts)
                    if real.is_relative_to(numbered[1].point)
                ),
                key=lambda numbered: (len(Path(numbered[1].point).parts), numbered[0]),
                default=None,
            )
            # Without its volume it is on the root disk, which is none for data.
            if holding is None or missing(root) is not None:
                continue
            stack = devices_below(holding[1], self._sysfs)
            self._give(found, stack, "data-disk")
            top = next((device.name for device in stack if device.name in found), None)
            if top is not None:
                found[top].roles.add("data-volume")

    @staticmethod
    def _give(found: Mapping[str, Device], stack: Iterable[BlockDevice], role: str) -> None:
        for described in stack:
            if not described.lies_on and described.name in found:
                found[described.name].roles.add(role)

    def _bottoms(self, name: str) -> list[str]:
        bottoms, queue, seen = [], [name], set()
        while queue:
            device = queue.pop()
            described = None if device in seen else self._sysfs.describe(device)
            seen.add(device)
            if described is None:
                continue
            if described.lies_on:
                queue += described.lies_on
            else:
                bottoms.append(device)
        return bottoms


def _any(patterns: list[str] | bool, text: str) -> bool:
    return isinstance(patterns, list) and any(fnmatchcase(text, pattern) for pattern in patterns)
