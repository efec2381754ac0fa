"""Why an image cannot be written to this machine: the engine's list, which the imager shares."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.engine.image_rules import ImageMachine, ImageQuestion, ImageTarget, judge
from holdfast.node.models import Disk
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.copies import Identifier, copies, identifiers_of
from holdfast.node.storage.disks import DiskPosition, position_of, system_position
from holdfast.node.storage.superblocks import read_superblock
from holdfast.privileged.boot.models import BootMode, ExplainRequest


def image_refusals(
    machine: MachineFiles, request: ExplainRequest, target: Disk | None, mode: BootMode
) -> Sequence[str]:
    """Return sentences about an image on the target disk, and about copies of either on others.

    Members of the request that are not known are not judged.
    """
    image = json.loads(request.image) if request.image is not None else None
    facts: dict[str, Any] = image or {"name": "", "size_bytes": 0}
    judged_machine = None
    if image is not None or request.boot_modes is not None:
        known = image or {"name": request.image_name, "size_bytes": 0}
        facts = {**known, "boot_modes": request.boot_modes or []}
        judged_machine = ImageMachine(architecture=platform.machine(), boot_mode=mode)
    judged_target = None if target is None else _target(machine, target)
    question = ImageQuestion(image=facts, target=judged_target, machine=judged_machine)
    refusals = judge(question).refusals
    if target is not None:
        identifiers = [*_of_system(machine), *_of_image(image or {})]
        refusals += copies(machine, target.name, identifiers)
    return refusals


def _target(machine: MachineFiles, target: Disk) -> ImageTarget:
    device = machine.sysfs().describe(target.name)
    sector = device.logical_block_size if device is not None else None
    return ImageTarget(path=target.path, size_bytes=target.size_bytes, sector_bytes=sector or 512)


def _of_system(machine: MachineFiles) -> Sequence[Identifier]:
    """Return the identifiers of the running system's file systems."""
    found: list[Identifier] = []
    for directory, place in (
        ("/", system_position(machine)),
        ("/boot", position_of(machine, "/boot")),
    ):
        if not isinstance(place, DiskPosition):
            continue
        try:
            content = read_superblock(machine.dev / place.device.name)
        except OSError:
            continue  # the arming has the rights, and reports it elsewhere if it cannot either
        found += identifiers_of(content, f"the file system of {directory}")
    return list({(each.kind, each.value): each for each in reversed(found)}.values())


def _of_image(image: Mapping[str, Any]) -> Sequence[Identifier]:
    """Return the identifiers of an image: the UUIDs of its file systems, and its root's label.

    A root on a logical volume is no partition's file system.
    """
    partitions = (image.get("partition_table") or {}).get("partitions", [])
    found = [
        Identifier("UUID", partition["uuid"], f"partition {partition['number']} of the image")
        for partition in partitions
        if partition.get("uuid") and partition.get("file_system")
    ]
    root: Mapping[str, Any] = next(
        (
            partition
            for partition in partitions
            if partition["number"] == image.get("root_partition")
        ),
        {},
    )
    inside: Mapping[str, Any] = image.get("root") or {}
    if inside.get("volume"):
        root = inside
        if root.get("uuid"):
            found.append(Identifier("UUID", root["uuid"], f"{root['volume']} of the image"))
    if root.get("label"):
        found.append(Identifier("label", root["label"], "the root of the image"))
    return found
