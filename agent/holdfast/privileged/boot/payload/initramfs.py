"""Puts the imager and all that it needs into one archive, which the kernel unpacks into memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.privileged.boot.payload import cpio
from holdfast.privileged.boot.payload.modules import Module

_CONSOLE = (5, 1)  # Documentation/admin-guide/devices.txt


def entries(
    *,
    imager: Path,
    job: bytes,
    descriptor: bytes,
    identity: Mapping[str, Any],
    modules: Sequence[Module],
    files: Mapping[str, bytes],
) -> Sequence[cpio.Entry]:
    """List what is in it. `files` are others below `/holdfast`, such as `ca.pem`."""
    listed = [
        cpio.directory("dev"),
        # The kernel opens it for the first program before that could mount anything.
        cpio.character_device("dev/console", *_CONSOLE),
        cpio.file("init", imager, 0o755),
        cpio.directory("holdfast", 0o700),
        cpio.file("holdfast/job.json", job),
        cpio.file("holdfast/descriptor.json", descriptor),
        cpio.file("holdfast/identity.json", json.dumps(identity).encode() + b"\n"),
        cpio.directory("holdfast/modules"),
    ]
    listed += [
        cpio.file(f"holdfast/modules/{module.name}", module.content, 0o644) for module in modules
    ]
    made = {"holdfast"}
    for name, content in files.items():
        path = f"holdfast/{name}"
        parent = path.rpartition("/")[0]
        if parent not in made:
            made.add(parent)
            listed.append(cpio.directory(parent, 0o700))
        listed.append(cpio.file(path, content))
    return listed
