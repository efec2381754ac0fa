"""Which machine this is: ids, kernel and image."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from holdfast import __version__
from holdfast.node.models import Identity
from holdfast.node.paths.files import read_text


def identify(system_root: Path = Path("/")) -> Identity:
    """Read the identity of the machine; `system_root` is where its files are."""
    kernel = os.uname()
    release = os_release(system_root)
    return Identity(
        hostname=kernel.nodename,
        machine_id=read_text(system_root / "etc/machine-id"),
        boot_id=read_text(system_root / "proc/sys/kernel/random/boot_id"),
        image_id=read_text(system_root / "etc/holdfast/image-id") or _image_of(release),
        os_name=release.get("PRETTY_NAME"),
        kernel=kernel.release,
        architecture=kernel.machine,
        cpus=psutil.cpu_count() or 1,
        booted_at=datetime.fromtimestamp(psutil.boot_time(), UTC),
        holdfast_version=__version__,
    )


def os_release(system_root: Path = Path("/")) -> Mapping[str, str]:
    """Parse os-release(5); empty where there is none."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        text = read_text(system_root / name)
        if text is not None:
            return _parse(text)
    return {}


def _parse(text: str) -> dict[str, str]:
    values = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            values[key] = "".join(shlex.split(value))
        except ValueError:  # an unbalanced quote: the line is ambiguous
            continue
    return values


def _image_of(release: Mapping[str, str]) -> str | None:
    image, version = release.get("IMAGE_ID"), release.get("IMAGE_VERSION")
    return "-".join(part for part in (image, version) if part) if image else None
