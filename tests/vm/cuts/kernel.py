"""Debian's kernels, and nothing else of Debian: unpacked in some seconds."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.payload.modules import gather
from tests.vm.image import CACHE, SUITE
from tests.vm.imager.kernel import Kernel

CLOUD = "linux-image-cloud-amd64"
"""For virtual machines: small, and without drivers of hardware watchdogs."""
GENERIC = "linux-image-amd64"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")


def small_kernel(cache: Path = CACHE, *, package: str = CLOUD, more: Sequence[str] = ()) -> Kernel:
    """Return a kernel with the modules that these machines need and `more`; it is unpacked once."""
    tree = cache / f"{SUITE}-{package}"
    cache.mkdir(parents=True, exist_ok=True)
    # Tests run side by side.
    with (cache / "kernel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            _unpack(package, tree)
    release = next((tree / "lib/modules").iterdir()).name
    modules = gather(MachineFiles(root=tree, kernel=release), (*_MODULES, *more))
    return Kernel(tree / "boot" / f"vmlinuz-{release}", modules)


def _unpack(package: str, tree: Path) -> None:
    partial = tree.with_name("partial-kernel")
    shutil.rmtree(partial, ignore_errors=True)
    options = ("--quiet", "--variant=extract", f"--include={package}")
    subprocess.run(("mmdebstrap", *options, SUITE, partial), check=True)
    found = next((partial / "lib/modules").iterdir())
    subprocess.run(("depmod", "-b", partial, found.name), check=True)
    for path in partial.iterdir():
        if path.name not in {"boot", "lib", "usr"}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    partial.rename(tree)
