"""Descriptors and findings about images as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.cli import units
from holdfast.cli.output import Output
from holdfast.cli.tables import Column
from holdfast.reimage.images.models import Described, Verified


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
            ("boot modes", ", ".join(image.boot_modes) or "none"),
            ("root", f"partition {image.root_partition}" if image.root_partition else "unknown"),
            ("descriptor SHA-256", done.descriptor_sha256),
        ],
        indent=2,
    )
    if image.partition_table is None:
        out.line("  no partition table")
        return
    out.table(
        ["partition", ">start", ">size", "file system", "label", Column("type", text=True, rank=1)],
        [
            (
                str(one.number),
                units.size(one.start_bytes),
                units.size(one.size_bytes),
                one.file_system or "",
                one.label or one.name,
                one.type,
            )
            for one in image.partition_table.partitions
        ],
        indent=2,
    )


def show_verified(out: Output, result: Mapping[str, Any]) -> None:
    """Print whether a file is what its descriptor tells of, and where it is not."""
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
    for one in found.differences:
        out.line(f"{one.offset}+{one.length} {words[one.kind]}")
    out.line(f"not as described: {found.why()}")
