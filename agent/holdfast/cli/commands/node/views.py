"""A machine as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.tables import Column
from holdfast.node.models import BlockDevice, Memory, NodeReport, RootTopology

_BAR = 16


def show_node(out: Output, answer: Any) -> None:
    """Print identity, memory, and for each root the devices down to its disks."""
    node = NodeReport.model_validate(answer)
    out.line(units.printable(node.hostname), "bold")
    out.fields(
        [
            ("node id", node.node_id or "none: the data volume is missing"),
            ("place", _place(node)),
            ("instance", _instance(node)),
            ("image", node.image_id or "no id"),
            ("system", f"{node.os_name or 'unknown'}, Linux {node.kernel}, {node.architecture}"),
            ("booted", f"{units.moment(node.booted_at)} ({units.age(node.booted_at)})"),
            ("boot id", node.boot_id or ""),
            ("machine id", node.machine_id or ""),
            ("processors", units.count(node.cpus)),
            ("memory", _memory(node.memory)),
            ("page cache", _page_cache(node.memory)),
            ("limits", _limits(node.memory)),
            ("holdfast", node.holdfast_version),
        ],
        indent=2,
    )
    for root in node.roots:
        _show_root(out, root)


def _place(node: NodeReport) -> str:
    known = {"cluster": node.cluster, "group": node.group, **node.labels}
    return ", ".join(f"{name} {units.printable(value)}" for name, value in known.items() if value)


def _instance(node: NodeReport) -> str:
    instance = node.instance
    if instance is None:
        return ""
    launched = f"launched from {instance.launch_image}" if instance.launch_image else None
    return ", ".join(filter(None, (instance.id, instance.type, instance.zone, launched)))


def _memory(memory: Memory) -> str:
    text = f"{units.size(memory.available_bytes)} available of {units.size(memory.total_bytes)}"
    if memory.swap_total_bytes:
        text += f", swap {units.size(memory.swap_used_bytes)} of "
        text += units.size(memory.swap_total_bytes)
    return text


def _page_cache(memory: Memory) -> str:
    text = units.size(memory.cached_bytes)
    if memory.dirty_bytes is not None:
        text += f", {units.size(memory.dirty_bytes)} of it dirty"
    return text


def _limits(memory: Memory) -> str:
    if memory.headroom_bytes is None:
        return ""
    tight = [
        f"{group.path} {units.size(limit)}"
        for group in memory.cgroups
        if (limit := group.max_bytes or group.high_bytes) is not None
    ]
    return f"cgroups leave {units.size(memory.headroom_bytes)} ({', '.join(tight)})"


def _show_root(out: Output, root: RootTopology) -> None:
    out.heading(units.printable(root.root))
    if not root.exists:
        out.line("  does not exist; is its volume mounted?")
        return
    out.fields(
        [
            ("mount", _mount(root)),
            ("space", _space(out, root)),
            ("note", root.note or ""),
        ],
        indent=2,
    )
    if root.devices:
        out.table(
            [
                "device",
                ">size",
                "~kind",
                Column("model", rank=2),
                Column("serial", rank=1),
                Column("scheduler", rank=3),
                Column("read-ahead", right=True, rank=4),
            ],
            [_row(device, depth) for device, depth in _tree(root.devices)],
            indent=2,
        )


def _mount(root: RootTopology) -> str:
    if root.mount_point is None:
        return ""
    return (
        f"{units.printable(root.mount_point)} from {units.printable(root.source or '?')}, "
        f"{root.file_system} ({root.options})"
    )


def _space(out: Output, root: RootTopology) -> str:
    if not root.size_bytes or root.available_bytes is None:
        return ""
    used = root.size_bytes - root.available_bytes
    bar = units.bar(used, root.size_bytes, _BAR, unicode=out.unicode)
    return f"{bar}  {units.size(root.available_bytes)} free of {units.size(root.size_bytes)}"


def _row(device: BlockDevice, depth: int) -> tuple[str, ...]:
    kind: str = device.type
    if device.detail:
        kind += f" ({units.printable(device.detail)})"
    if device.type == "disk" and device.rotational is not None:
        kind += ", rotating" if device.rotational else ", solid state"
    ahead = "" if device.read_ahead_kb is None else units.size(device.read_ahead_kb * 1024)
    return (
        "  " * depth + device.path,
        "" if device.size_bytes is None else units.size(device.size_bytes),
        kind,
        units.printable(device.model or ""),
        units.printable(device.serial or ""),
        device.scheduler or "",
        ahead,
    )


def _tree(devices: Sequence[BlockDevice]) -> Iterator[tuple[BlockDevice, int]]:
    """Yield each device once, with what it is built on right below it and one level deeper."""
    by_name = {device.name: device for device in devices}
    below = {name for device in devices for name in device.lies_on}
    shown: set[str] = set()

    def walk(device: BlockDevice, depth: int) -> Iterator[tuple[BlockDevice, int]]:
        if device.name in shown:
            return
        shown.add(device.name)
        yield device, depth
        for name in device.lies_on:
            if name in by_name:
                yield from walk(by_name[name], depth + 1)

    for device in devices:
        if device.name not in below:
            yield from walk(device, 0)
