"""The kernel that the imager runs on: Debian's, with the modules that a job asks for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.payload.modules import Module, gather
from tests.vm.image import base_image
from tests.vm.reimage.disks import in_own_mounts

NAMES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "nvme",
    "ext4",
    "xfs",
    "md-mod",
    "raid0",
    "raid1",
)

_TAKE_MODULES = r"""
root=$(mktemp -d)
trap 'umount --lazy "$root"; rmdir "$root"' EXIT
mount -o loop,ro,noload "$1" "$root"
mkdir -p "$2/lib"
cp -a "$root/usr/lib/modules" "$2/lib/"
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel and, in the order in which to load them, modules of it."""

    path: Path
    modules: Sequence[Module]


def kernel(more: Sequence[str] = ()) -> Kernel:
    """Return that of the Debian that other tests boot; its modules are unpacked once.

    `more` names modules besides those that every machine of these tests needs.
    """
    base = base_image()
    tree = base.root.parent / "modules"
    if not tree.exists():
        partial = tree.with_name("partial-modules")
        shutil.rmtree(partial, ignore_errors=True)
        in_own_mounts(_TAKE_MODULES, base.root, partial)
        partial.rename(tree)
    release = next((tree / "lib/modules").iterdir()).name
    return Kernel(base.kernel, gather(MachineFiles(root=tree, kernel=release), (*NAMES, *more)))
