from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.mounts import mount_of, read_mounts
from holdfast.node.storage.topology import describe_root
from tests.support.machine.topologies import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "mnt" / "my data"
    directory.mkdir(parents=True)
    return directory


def test_lvm_on_a_raid_of_two_disks(machine: Machine, root: Path) -> None:
    for number in (0, 1):
        machine.device(
            f"pci/nvme{number}/nvme{number}n1",
            f"259:{number}",
            size="8388608",
            device__model="Amazon EC2 NVMe Instance Storage   ",
            device__serial=f"AWS{number}",
            wwid="nvme.1d0f",
            queue__rotational="0",
            queue__scheduler="[none] mq-deadline",
            queue__read_ahead_kb="128",
            queue__nr_requests="1023",
            queue__logical_block_size="512",
            queue__physical_block_size="4096",
        )
    machine.device("pci/nvme1/nvme1n1/nvme1n1p1", "259:5", partition="1")
    machine.device("virtual/block/md0", "9:0", md__level="raid0", queue__read_ahead_kb="1024")
    machine.device("virtual/block/dm-0", "253:0", dm__name="vg-data", dm__uuid="LVM-abc")
    machine.slave("dm-0", "md0")
    machine.slave("md0", "nvme0n1")
    machine.slave("md0", "nvme1n1p1")
    machine.mount("8:1", "/")
    machine.mount("253:0", root, source="/dev/mapper/vg-data")

    answer = machine.describe(root)

    assert answer.exists
    assert answer.note is None
    assert (answer.mount_point, answer.file_system) == (str(root), "ext4")
    assert answer.options == "rw,noatime"
    assert [(device.name, device.type, device.lies_on) for device in answer.devices] == [
        ("dm-0", "dm", ["md0"]),
        ("md0", "md", ["nvme0n1", "nvme1n1p1"]),
        ("nvme0n1", "disk", []),
        ("nvme1n1p1", "partition", ["nvme1n1"]),
        ("nvme1n1", "disk", []),
    ]
    volume, raid, disk, partition, _ = answer.devices
    assert (volume.path, volume.detail) == ("/dev/mapper/vg-data", "lvm")
    assert (raid.detail, raid.read_ahead_kb) == ("raid0", 1024)
    assert (disk.model, disk.serial, disk.wwid) == (
        "Amazon EC2 NVMe Instance Storage",
        "AWS0",
        "nvme.1d0f",
    )
    assert (disk.scheduler, disk.rotational, disk.nr_requests) == ("none", False, 1023)
    assert (disk.logical_block_size, disk.physical_block_size) == (512, 4096)
    assert (disk.size_bytes, disk.read_only, disk.number) == (4 << 30, False, "259:0")
    assert partition.scheduler is None


def test_a_directory_inside_a_mount(machine: Machine, root: Path) -> None:
    machine.device("virtual/block/vda", "254:0", serial="S1")
    machine.mount("1:1", "/")
    machine.mount("254:0", root.parent)
    answer = machine.describe(root)
    assert answer.mount_point == str(root.parent)
    assert [device.serial for device in answer.devices] == ["S1"]


def test_of_two_mounts_on_one_point_the_later_counts(machine: Machine, root: Path) -> None:
    machine.device("virtual/block/vda", "254:0")
    machine.device("virtual/block/vdb", "254:16")
    machine.mount("254:0", root)
    machine.mount("254:16", root)
    assert [device.name for device in machine.describe(root).devices] == ["vdb"]


@pytest.mark.parametrize(
    ("line", "options"),
    [
        # We see it as `rw,noatime`; the file system's own options come behind.
        (
            "30 1 254:0 / {} rw,relatime - ext4 x rw,errors=remount-ro",
            "rw,relatime,errors=remount-ro",
        ),
        ("30 1 254:0 / {} ro,relatime - ext4 x rw", "ro,relatime"),
        # Made read-only by the kernel after an error.
        ("30 1 254:0 / {} rw,relatime - ext4 x ro", "ro,relatime"),
        # Another one is there, or none: our own view is all there is.
        ("30 1 254:16 / {} ro - ext4 x ro", "rw,noatime"),
        ("30 1 8:1 / / ro - ext4 x ro", "rw,noatime"),
    ],
)
def test_options_are_those_that_the_machine_has(
    machine: Machine, root: Path, line: str, options: str
) -> None:
    machine.mount("254:0", root)
    machine.first_process(line.format(str(root).replace(" ", r"\040")))
    assert machine.describe(root).options == options


def test_a_missing_root_is_told(machine: Machine, tmp_path: Path) -> None:
    machine.mount("1:1", "/")
    answer = machine.describe(tmp_path / "not there")
    assert not answer.exists
    assert answer.note == f"{tmp_path}/not there cannot be inspected: No such file or directory."
    assert answer.devices == []


def test_a_root_whose_links_make_a_loop_is_told(machine: Machine, tmp_path: Path) -> None:
    machine.mount("1:1", "/")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    answer = machine.describe(tmp_path / "loop")
    assert not answer.exists
    assert answer.note


def test_a_device_that_sysfs_does_not_show(machine: Machine, root: Path) -> None:
    machine.mount("254:7", root, source="/dev/vdz")
    answer = machine.describe(root)
    assert answer.devices == []
    assert answer.note == "The device /dev/vdz (254:7) is not in /sys, as in some containers."


@pytest.mark.parametrize(
    ("kind", "source", "reported"),
    [
        ("overlay", "overlay", "is on no block device"),
        ("nfs4", "server:/export", "not on a disk of this machine"),
    ],
)
def test_what_lies_on_no_disk(
    machine: Machine, root: Path, kind: str, source: str, reported: str
) -> None:
    machine.mount("0:50", root, kind=kind, source=source)
    answer = machine.describe(root)
    assert answer.devices == []
    assert reported in (answer.note or "")


def test_no_mountinfo(machine: Machine, root: Path) -> None:
    answer = machine.describe(root)
    assert answer.exists
    assert "cannot be read" in (answer.note or "")


def test_attributes_that_cannot_be_read(machine: Machine, root: Path) -> None:
    machine.device("virtual/block/vda", "254:0", size="much", queue__rotational="")
    machine.mount("254:0", root)
    (device,) = machine.describe(root).devices
    assert device.size_bytes is None
    assert device.rotational is None
    assert device.serial is None


def test_this_machine(disk_dir: Path) -> None:
    """The kernel's own word: what is mounted, and which device a file is on."""
    answer = describe_root(disk_dir, sysfs=Sysfs())
    command = ["stat", "--format=%m", str(disk_dir)]
    point = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert answer.mount_point == point
    space = os.statvfs(disk_dir)
    assert answer.size_bytes == space.f_blocks * space.f_frsize
    status = disk_dir.stat().st_dev
    number = f"{os.major(status)}:{os.minor(status)}"
    if not Path("/sys/dev/block", number).exists():
        pytest.skip("this machine shows no device for its file system")
    assert answer.devices[0].number == number
    assert answer.devices[-1].type in ("disk", "loop")
    assert all(device.size_bytes for device in answer.devices)


def test_names_in_mountinfo(machine: Machine, tmp_path: Path) -> None:
    machine.mount("254:0", "/a b", source="/dev/x")
    file = machine.proc / "self/mountinfo"
    file.write_bytes(
        file.read_bytes() + b"31 1 0:9 / /caf\xe9\\134 rw shared:1 - tmpfs t rw\nodd\n"
    )
    mounts = read_mounts(machine.proc)
    assert [mount.point for mount in mounts] == ["/a b", "/caf\udce9\\"]
    assert mount_of(Path("/a b/c"), mounts) is mounts[0]
    assert mount_of(Path("/a bc"), mounts) is None


def test_udev_is_not_loaded_with_the_module() -> None:
    program = "import sys, holdfast.node.service; print('pyudev' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
