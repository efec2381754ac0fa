"""A matrix of layouts: each is described, judged, tried, written by the imager, and booted."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import apply_image_rules
from holdfast.privileged.boot.payload import cpio
from tests.vm.imager import layouts
from tests.vm.imager.arming import IMAGER
from tests.vm.imager.builder import programs
from tests.vm.imager.conftest import NewRig
from tests.vm.imager.images import MIB, Image, describe
from tests.vm.imager.kernel import Kernel, kernel
from tests.vm.imager.layouts import LAYOUTS, Layout
from tests.vm.imager.machine import USER, Drive, Running, running
from tests.vm.imager.rig import Rig
from tests.vm.imager.serving import behaviour, served
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.reimage.telling import tell

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


@pytest.fixture(scope="session")
def tree(room: Path) -> Path:
    """Give what is in every system."""
    return layouts.debian_tree(room)


def boot_initramfs(debian: Kernel, layout: Layout, path: Path) -> Path:
    """Write an initramfs that mounts a layout and starts its init."""
    listed = [
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "mnt", "run", "tmp", "modules")),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", _INIT.replace("{mount}", layout.mount).encode(), 0o755),
        cpio.file("modules/order", "\n".join(one.name for one in debian.modules).encode()),
        *(cpio.file(f"modules/{one.name}", one.content) for one in debian.modules),
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


def refusals(image: Image, layout: Layout) -> list[str]:
    """Return why a plan would refuse it, on the disk that the machine has."""
    target = {
        "path": "/dev/vda",
        "size_bytes": TARGET_BYTES,
        "sector_bytes": layout.sector_bytes,
    }
    wishes = {"identity": True, "grow_root": True}
    question = {"image": json.loads(image.descriptor), "target": target, "wishes": wishes}
    found: list[str] = json.loads(apply_image_rules(json.dumps(question)))["refusals"]
    return found


def try_root(image: Image, identity: dict[str, Any], scratch: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the trial on this machine, by this machine's kernel."""
    request = {
        "descriptor": image.descriptor.decode(),
        "image": str(image.content),
        "scratch": str(scratch),
        "floor_bytes": 0,
        "identity": identity,
        "grow_to_bytes": TARGET_BYTES,
    }
    done = subprocess.run(
        (IMAGER, "try"),
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    return {row["check"]: row for row in rows}


def inspect(disk: Path) -> dict[str, Any]:
    """Return what is on a disk, by looking into it."""
    command = (sys.executable, "-m", "holdfast", "image", "inspect", str(disk), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_file_systems(disk: Path, found: dict[str, Any]) -> int:
    """Have each file system checked by its own tools; return how many there are."""
    places = [
        (one["start_bytes"], one["size_bytes"], one["file_system"])
        for one in found["partition_table"]["partitions"]
        if one["file_system"]
    ]
    root = found["root"]
    if root["volume"] is not None:
        range_ = root["volume_range"]
        places.append((range_["start_bytes"], range_["size_bytes"], root["file_system"]))
    for start, size, kind in places:
        in_own_mounts(_CHECK, disk, str(start), str(size), kind)
    return len(places)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_is_described_tried_written_and_booted(
    rig: NewRig, tree: Path, tmp_path: Path, old_of_4096: Path, layout: Layout
) -> None:
    lacking = layouts.missing(layout)
    if lacking is not None:
        pytest.skip(f"there is no {lacking}")
    raw = tmp_path / f"{layout.name}.raw"
    printed = layouts.make(layout, raw, tree)
    image = describe(raw, raw)
    described = json.loads(image.descriptor)
    assert described["root"]["os_release"], described["root"]
    assert described["sector_bytes"] == layout.sector_bytes
    machine = armed(rig, image, layout, old_of_4096)
    found = refusals(image, layout)
    if layout.verity:
        assert "protected by verity" in found[0]
        said = write(machine, layout, identity=IDENTITY)
        assert any("protected by verity" in line for line in said), said
        machine.only_the_record_changed()
        machine = armed(rig, image, layout, old_of_4096)
    else:
        assert found == []
    identity = NO_IDENTITY if layout.verity else IDENTITY
    trial = try_root(image, identity, tmp_path)
    assert not [row for row in trial.values() if row["outcome"] == "failed"], trial
    assert trial["mount"]["outcome"] == "passed", trial
    if not layout.verity:
        assert (trial["identity"]["outcome"], trial["marker"]["outcome"]) == ("passed", "passed")
    said = write(machine, layout, identity=identity)
    assert "the new system is on the disk; rebooting into it" in said, said
    checked = check_file_systems(machine.target, inspect(machine.target))
    booted = boot(machine.kernel, machine.target, layout, machine.directory)
    tell(f"{layout.name}: {checked} file systems are whole; booted: {booted}")
    if layout.verity:
        verify(machine.target, tmp_path, printed)
        assert booted == "replica marker=no var=roots"
    else:
        var = "own" if layout.name == "hardened-var" else "roots"
        assert booted == f"node-7 marker=yes var={var}"
        last = layout.name != "hardened-var"
        wanted = "was grown to" if last else "is not the last one"
        assert any(wanted in line for line in said), said


def verify(disk: Path, directory: Path, root_hash: str) -> None:
    """Raise unless not a byte of the root differs from what its hashes were made of."""
    for name, start, size in (("root", 1, 90), ("hashes", 92, 8)):
        part = (f"if={disk}", f"of={directory}/{name}", "bs=1M", f"skip={start}")
        subprocess.run(("dd", *part, f"count={size}", "status=none"), check=True)
    command = ("veritysetup", "verify", f"{directory}/root", f"{directory}/hashes", root_hash)
    subprocess.run(command, check=True)
