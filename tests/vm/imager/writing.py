"""Systems written by the imager to a machine's disk, checked there and booted from it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdfast.privileged.boot.payload import cpio
from tests.vm.imager.builder import programs
from tests.vm.imager.conftest import NewRig
from tests.vm.imager.images import MIB, Image
from tests.vm.imager.kernel import Kernel, kernel
from tests.vm.imager.layouts import Layout
from tests.vm.imager.machine import USER, Drive, Running, running
from tests.vm.imager.rig import Rig
from tests.vm.imager.serving import behaviour, served
from tests.vm.reimage.disks import in_own_mounts

TARGET_BYTES = 448 * MIB
HOSTNAME = {
    "path": "/etc/hostname",
    "mode": 0o644,
    "uid": 0,
    "gid": 0,
    "user": None,
    "group": None,
    "content": base64.b64encode(b"node-7\n").decode(),
}
IDENTITY = {"files": [HOSTNAME], "directories": [], "remove": []}
NO_IDENTITY: dict[str, Any] = {"files": [], "directories": [], "remove": []}
_TOOLS = ("bash", "insmod", "lvm", "mkdir", "mount", "switch_root", "umount")
_INIT = r"""#!/usr/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(</modules/order); do insmod "/modules/$module"; done
echo 4 >/proc/sys/kernel/printk
{mount}
for place in dev proc sys; do mount --move "/$place" "/mnt/$place"; done
exec switch_root /mnt /sbin/init
"""
# Has the tools of each file system check it: its place is `$2`, its bytes `$3`, its kind `$4`.
_CHECK = r"""
loop=$(losetup --find --show --read-only --offset "$2" --sizelimit "$3" "$1")
trap 'losetup --detach "$loop"' EXIT
case $4 in
    ext*) e2fsck -f -n "$loop" ;;
    xfs) xfs_repair -n "$loop" ;;
    btrfs) btrfs check --readonly "$loop" ;;
    vfat) fsck.vfat -n "$loop" ;;
esac
"""


def boot_initramfs(debian: Kernel, layout: Layout, path: Path) -> Path:
    """Write an initramfs that mounts a layout and starts its init."""
    listed = [
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "mnt", "run", "tmp", "modules")),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", _INIT.replace("{mount}", layout.mount).encode(), 0o755),
        cpio.file("modules/order", "\n".join(module.name for module in debian.modules).encode()),
        *(cpio.file(f"modules/{module.name}", module.content) for module in debian.modules),
        *programs(_TOOLS),
    ]
    with path.open("wb") as file:
        file.writelines(cpio.archive(listed))
    return path


def boot(debian: Kernel, disk: Path, layout: Layout, directory: Path) -> str:
    """Boot what is on a disk by a kernel and an initramfs; return what its init printed."""
    initrd = boot_initramfs(debian, layout, directory / "boot.img")
    drives = [Drive(disk, "root-0001", sector_bytes=layout.sector_bytes)]
    with running(debian.path, initrd, drives, directory / "boot") as machine:
        machine.rebooted()
    return booted_as(machine)


def booted_as(machine: Running) -> str:
    """Return what the init of a replica printed."""
    found = re.search(r"booted: (.*?)\r*$", machine.console, re.MULTILINE)
    assert found is not None, machine.console[-3000:]
    return found[1]


def armed(rig: NewRig, image: Image, layout: Layout, old_of_4096: Path) -> Rig:
    """Return a machine whose kernel and disk are as the layout needs them."""
    machine = rig(image)
    machine.kernel = kernel(layout.modules)
    if layout.sector_bytes != 512:
        machine.replace_target(old_of_4096)
    return machine


def write(machine: Rig, layout: Layout, **more: Any) -> list[str]:
    """Have the imager write the image to a larger disk; return what it printed."""
    with machine.target.open("r+b") as disk:
        disk.truncate(TARGET_BYTES)
    drives = [Drive(machine.target, "root-0001", sector_bytes=layout.sector_bytes)]
    options = {"grow_root": True}
    with served(machine, behaviour(machine.image)) as how:
        initrd = machine.arm(**how, change=lambda job: job.update(options=options), **more)
        done = machine.run(initrd, drives, network=USER)
    machine.last = done
    return done.said


def inspect(disk: Path) -> dict[str, Any]:
    """Return what is on a disk, by looking into it."""
    command = (sys.executable, "-m", "holdfast", "image", "inspect", str(disk), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_file_systems(disk: Path, found: dict[str, Any]) -> int:
    """Have each file system checked by its own tools; return how many there are."""
    places = [
        (partition["start_bytes"], partition["size_bytes"], partition["file_system"])
        for partition in found["partition_table"]["partitions"]
        if partition["file_system"]
    ]
    root = found["root"]
    if root["volume"] is not None:
        range_ = root["volume_range"]
        places.append((range_["start_bytes"], range_["size_bytes"], root["file_system"]))
    for start, size, kind in places:
        in_own_mounts(_CHECK, disk, str(start), str(size), kind)
    return len(places)
