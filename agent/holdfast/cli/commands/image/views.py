"""Descriptors and findings about images as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.cli.terminal import units
from holdfast.cli.terminal.output import Output
from holdfast.cli.terminal.tables import Column
from holdfast.reimage.images.models import Described, Descriptor, Inspected, Root, Verified


def show_described(out: Output, result: Mapping[str, Any]) -> None:
    """Print a descriptor that was written, and its partitions."""
    done = Described.model_validate(result)
    image = done.image
    out.line(f"wrote {units.printable(str(done.descriptor))}")
    content = image.content
    out.fields(
        [
            ("image", f"{image.name} {image.image_version}"),
            ("size", f"{units.size(image.size_bytes)}, {units.size(image.mapped_bytes)} mapped"),
            ("content", f"{content.file}, {content.encoding}, {units.size(content.size_bytes)}"),
            *_found(image),
            ("descriptor SHA-256", done.descriptor_sha256),
        ],
        indent=2,
    )
    _show_partitions(out, image)
    _show_notes(out, image)


def show_inspected(out: Output, result: Mapping[str, Any]) -> None:
    """Print what looking into an image found, and why it cannot be described if that is so."""
    found = Inspected.model_validate(result)
    out.fields(
        [
            ("size", f"{units.size(found.size_bytes)} ({found.encoding})"),
            *_found(found),
        ],
    )
    _show_partitions(out, found)
    _show_notes(out, found)
    for problem in found.problems:
        out.line(f"cannot be described: {units.printable(problem)}")


def _found(image: Descriptor | Inspected) -> Sequence[tuple[str, str]]:
    """Return the fields of what was found by looking into an image."""
    fields = [
        ("boot modes", ", ".join(image.boot_modes) or "none"),
        ("architecture", image.architecture or "unknown"),
        ("sectors", f"{image.sector_bytes} bytes" if image.sector_bytes else "unknown"),
        ("root", _root(image)),
    ]
    root, system = image.root, image.system
    if root is not None and root.because:
        fields.append(("root because", root.because))
    if root is not None and root.free_bytes is not None:
        fields.append(("root free", units.size(root.free_bytes)))
    if root is not None and root.features:
        fields.append(("root features", " ".join(root.features)))
    if system is not None:
        fields += [
            ("system", system.name or system.id or "unknown"),
            ("kernels", ", ".join(system.kernels) or "none found"),
            ("cloud-init", "yes" if system.cloud_init else "no"),
            ("SELinux", system.selinux or "no"),
            ("holdfast", system.holdfast or "not found"),
        ]
    return fields


def _root(image: Descriptor | Inspected) -> str:
    if image.root_partition is None:
        return "unknown"
    parts = [f"partition {image.root_partition}"]
    root = image.root
    if root is not None:
        parts += [
            f"{what} {value}"
            for what, value in (
                ("volume", _volume(root)),
                ("subvolume", root.subvolume),
                ("deployment", root.deployment),
            )
            if value
        ]
        parts += [root.file_system or "no known file system"]
        parts += ["protected by verity"] if root.verity else []
    return ", ".join(parts)


def _volume(root: Root) -> str | None:
    if root.volume is None or root.volume_problem is None:
        return root.volume
    return f"{root.volume} (not written, since it {root.volume_problem})"


def _show_notes(out: Output, image: Descriptor | Inspected) -> None:
    for note in image.notes:
        out.line(f"  note: {units.printable(note)}")


def _show_partitions(out: Output, image: Descriptor | Inspected) -> None:
    if image.partition_table is None:
        out.line("  no partition table")
        return
    out.table(
        ["partition", ">start", ">size", "file system", "label", Column("type", text=True, rank=1)],
        [
            (
                str(partition.number),
                units.size(partition.start_bytes),
                units.size(partition.size_bytes),
                partition.file_system or "",
                partition.label or partition.name,
                partition.type,
            )
            for partition in image.partition_table.partitions
        ],
        indent=2,
    )


def show_verified(out: Output, result: Mapping[str, Any]) -> None:
    """Print whether a file matches its descriptor, and where it differs."""
    found = Verified.model_validate(result, by_name=True)
    if found.signed_by is not None:
        out.line(f"the descriptor is signed by {units.printable(found.signed_by)}")
    if found.ok:
        out.line(
            f"whole and as described: {units.size(found.size_bytes)}, "
            f"{units.size(found.mapped_bytes)} of them mapped"
        )
        return
    words = {"differs": "differs", "zeros": "is zeros", "not_zeros": "should be zeros"}
    for difference in found.differences:
        out.line(f"{difference.offset}+{difference.length} {words[difference.kind]}")
    out.line(f"not as described: {found.why()}")
