"""`holdfast image inspect` and `describe`: what an image is, found by looking into it."""

from __future__ import annotations

import json
import struct
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import run_cli
from tests.support.disks import gpt
from tests.support.disks.images import MIB, FileSystem, make_disk, put_grub, run

ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_ARM = "b921b045-1df0-41c3-af44-4c6f280d3fae"
VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
MACHINES = {"BOOTX64.EFI": 0x8664, "BOOTAA64.EFI": 0xAA64}
MakeTree = Callable[[Mapping[str, bytes | str]], Path]


@pytest.fixture
def tree(disk_dir: Path) -> MakeTree:
    """Give a function that makes a directory of files."""

    def make(files: Mapping[str, bytes | str]) -> Path:
        where = disk_dir / f"tree{len(list(disk_dir.iterdir()))}"
        where.mkdir()
        for name, content in files.items():
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return where

    return make


SYSTEM = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/hostname": "localhost\n",
}


def ext4(tree: Path, *more: str) -> tuple[str, ...]:
    return ("mkfs.ext4", "-q", *more, "-d", str(tree))


def inspect(file: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run_cli("image", "inspect", file, "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def program(machine: int) -> bytes:
    """Return as much of a program for UEFI as names its machine."""
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    return header + b"PE\0\0" + struct.pack("<H", machine) + bytes(200)


def put_loader(disk: Path, start_mib: int, name: str, machine: int) -> None:
    """Put a loader at UEFI's removable path of the FAT file system at a place."""
    place = f"{disk}@@{start_mib}M"
    source = disk.with_name(name)
    source.write_bytes(program(machine))
    run("mmd", "-i", place, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", place, source, f"::/EFI/BOOT/{name}")


def test_a_root_is_found_by_what_is_in_it_and_not_by_its_size(
    disk_dir: Path, tree: MakeTree
) -> None:
    var = tree({"log/messages": "", "lib/dpkg/status": ""})
    disk = make_disk(
        disk_dir / "hardened.raw",
        200,
        "label: gpt\nstart=1MiB, size=60MiB, type=linux\nstart=64MiB, size=120MiB, type=linux\n",
        [FileSystem(1, 60, ext4(tree(SYSTEM))), FileSystem(64, 120, ext4(var))],
    )
    found = inspect(disk)
    assert (found["root_partition"], found["root"]["file_system"]) == (1, "ext4")
    assert found["system"]["name"] == "Debian GNU/Linux 12 (bookworm)"
    assert found["boot_modes"] == []
    packed = disk.with_suffix(".raw.zst")
    run("zstd", "-q", disk, "-o", packed)
    assert inspect(packed) == found | {"encoding": "zstd"}
    assert inspect(disk, "--root-partition", "2")["root_partition"] == 2
    assert "no partition 7" in inspect(disk, "--root-partition", "7", code=3)["problems"][0]


@pytest.mark.parametrize("chosen", ["A", "B", None])
def test_of_two_systems_the_one_that_the_loader_names(
    disk_dir: Path, tree: MakeTree, chosen: str | None
) -> None:
    line = f"root=PARTLABEL=rootfs-{chosen}" if chosen else "root=$root"
    esp = disk_dir / "grub.cfg"
    esp.write_text(f"menuentry 'x' {{\n  linux /vmlinuz {line} ro quiet\n}}\n")
    disk = make_disk(
        disk_dir / "ab.raw",
        220,
        "label: gpt\nstart=1MiB, size=40MiB, type=uefi\n"
        "start=42MiB, size=40MiB, type=linux, name=rootfs-A\n"
        "start=84MiB, size=40MiB, type=linux, name=rootfs-B\n"
        "start=130MiB, size=80MiB, type=linux, name=data\n",
        [
            FileSystem(1, 40, ("mkfs.vfat",)),
            FileSystem(42, 40, ext4(tree(SYSTEM))),
            FileSystem(84, 40, ext4(tree(SYSTEM))),
            FileSystem(130, 80, ext4(tree({"db/file": "x"}))),
        ],
    )
    put_loader(disk, 1, "BOOTX64.EFI", 0x8664)
    run("mcopy", "-i", f"{disk}@@1M", esp, "::/EFI/BOOT/grub.cfg")
    found = inspect(disk)
    assert found["root_partition"] == {"A": 2, "B": 3, None: None}[chosen]
    assert (found["boot_modes"], found["architecture"]) == (["uefi"], "x86_64")
    if chosen is None:
        assert any("--root-partition" in note for note in found["notes"])
        assert inspect(disk, "--root-partition", "3")["root"]["partition"] == 3


def test_a_btrfs_root_beside_a_boot_of_its_own(disk_dir: Path, tree: MakeTree) -> None:
    boot = tree({"grub2/grub.cfg": "", "loader/entries/f.conf": "options root=LABEL=fedora ro\n"})
    table = "label: gpt\nstart=1MiB, size=60MiB, type=linux\nstart=64MiB, size=130MiB, type=linux\n"
    systems = [
        FileSystem(1, 60, ext4(boot)),
        FileSystem(64, 130, ("mkfs.btrfs", "-q", "-L", "fedora", "-r", str(tree(SYSTEM)))),
    ]
    found = inspect(make_disk(disk_dir / "fedora.raw", 200, table, systems))
    assert (found["root_partition"], found["root"]["file_system"]) == (2, "btrfs")
    assert found["system"]["id"] == "debian"


def lvm(path: Path, content: bytes, size_mib: int) -> None:
    """Write a physical volume with one linear volume, in two segments that are out of order."""
    extent, start = 4 * MIB, MIB
    half = len(content) // extent // 2
    text = f"""rl {{
id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
seqno = 3
extent_size = 8192
physical_volumes {{
pv0 {{ id = "0123456789abcdefghijklmnopqrstuv"
pe_start = {start // 512}
pe_count = {size_mib // 4 - 1} }} }}
logical_volumes {{
root {{ id = "x" # the root
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 2
segment1 {{ start_extent = 0 extent_count = {half} type = "striped" stripe_count = 1
stripes = [ "pv0", {half} ] }}
segment2 {{ start_extent = {half} extent_count = {half} type = "striped" stripe_count = 1
stripes = [ "pv0", 0 ] }} }} }} }}
""".encode()
    area, size = 4096, MIB - 4096
    header = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, area, size)
    location = struct.pack("<QQII", 512, len(text), 0, 0)
    areas = struct.pack("<6Q", start, 0, 0, 0, area, size) + bytes(16)
    label = b"LABELONE" + struct.pack("<QII", 1, 0, 32) + b"LVM2 001"
    identity = b"0123456789abcdefghijklmnopqrstuv" + struct.pack("<Q", size_mib * MIB)
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)
        for place, part in (
            (512, label + identity + areas),
            (area, bytes(4) + header + location),
            (area + 512, text),
            (start, content[half * extent :]),
            (start + half * extent, content[: half * extent]),
        ):
            file.seek(place)
            file.write(part)


def test_a_root_on_a_logical_volume(disk_dir: Path, tree: MakeTree) -> None:
    volume, physical = disk_dir / "volume", disk_dir / "physical"
    with volume.open("wb") as file:
        file.truncate(64 * MIB)
    run(*ext4(tree(SYSTEM)), volume)
    lvm(physical, volume.read_bytes(), 72)
    boot = tree({"loader/entries/r.conf": "options root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root"})
    table = "label: gpt\nstart=1MiB, size=40MiB, type=linux\nstart=48MiB, size=72MiB, type=lvm\n"
    disk = make_disk(disk_dir / "rhel.raw", 130, table, [FileSystem(1, 40, ext4(boot))])
    run("dd", f"if={physical}", f"of={disk}", "bs=1M", "seek=48", "conv=notrunc", "status=none")
    found = inspect(disk)
    assert (found["root_partition"], found["root"]["volume"]) == (2, "rl/root")
    assert found["system"]["id"] == "debian"
    assert found["partition_table"]["partitions"][1]["file_system"] == "LVM2_member"


def test_a_deployment_of_ostree_and_verity_are_seen(disk_dir: Path, tree: MakeTree) -> None:
    deployed = {f"ostree/deploy/fcos/deploy/abc.0/{name}": text for name, text in SYSTEM.items()}
    table = f"label: gpt\nstart=1MiB, size=60MiB, type={ROOT}\nstart=64MiB, size=8MiB, type={{}}\n"
    system = [FileSystem(1, 60, ext4(tree(deployed)))]
    found = inspect(make_disk(disk_dir / "ostree.raw", 80, table.format("linux"), system))
    assert found["root"]["deployment"] == "ostree/deploy/fcos/deploy/abc.0"
    assert (found["system"]["id"], found["root"]["verity"]) == ("debian", False)
    found = inspect(make_disk(disk_dir / "verity.raw", 80, table.format(VERITY), system))
    assert found["root"]["verity"] is True


def esp_image(disk_dir: Path, tree: MakeTree, loader: str | None, kind: str = ROOT) -> Path:
    name = f"{loader or 'none'}-{kind[:4]}.raw"
    table = f"label: gpt\nstart=1MiB, size=40MiB, type=uefi\nstart=48MiB, size=60MiB, type={kind}\n"
    systems = [FileSystem(1, 40, ("mkfs.vfat",)), FileSystem(48, 60, ext4(tree(SYSTEM)))]
    disk = make_disk(disk_dir / name, 120, table, systems)
    if loader is not None:
        put_loader(disk, 1, loader, MACHINES[loader])
    return disk


def test_uefi_only_where_firmware_finds_a_loader(disk_dir: Path, tree: MakeTree) -> None:
    bare = inspect(esp_image(disk_dir, tree, None))
    assert bare["boot_modes"] == []
    assert any("without EFI/BOOT/BOOTX64.EFI" in note for note in bare["notes"])
    found = inspect(esp_image(disk_dir, tree, "BOOTX64.EFI"))
    assert (found["boot_modes"], found["architecture"]) == (["uefi"], "x86_64")
    found = inspect(esp_image(disk_dir, tree, "BOOTAA64.EFI", ROOT_ARM))
    assert (found["boot_modes"], found["architecture"]) == (["uefi"], "aarch64")
    # A loader for another machine than the system, or that is no program at all.
    assert inspect(esp_image(disk_dir, tree, "BOOTAA64.EFI"))["boot_modes"] != ["bios"]
    disk = esp_image(disk_dir, tree, None)
    put_loader(disk, 1, "BOOTX64.EFI", 0xAA64)
    assert inspect(disk)["boot_modes"] == []


def test_bios_only_where_the_boot_code_has_something_behind_it(
    disk_dir: Path, tree: MakeTree
) -> None:
    table = "label: dos\nstart=1MiB, size=60MiB, type=83\n"
    system = [FileSystem(1, 60, ext4(tree(SYSTEM)))]
    disk = make_disk(disk_dir / "bios.raw", 64, table, system)
    with disk.open("r+b") as file:
        file.write(b"\xfa\xb8\x00\x10")  # as parted's own code begins
    assert inspect(disk)["boot_modes"] == []
    put_grub(disk, core=False)
    found = inspect(disk)
    assert found["boot_modes"] == []
    assert any("no core image" in note for note in found["notes"])
    put_grub(disk, core=True)
    assert inspect(disk)["boot_modes"] == ["bios"]


def gpt_of_4096(path: Path, size_mib: int, partitions: list[tuple[str, int, int]]) -> None:
    """Write a GPT for a disk with sectors of 4096 bytes; places and sizes are MiB."""
    entries = b""
    for number, (kind, start, size) in enumerate(partitions):
        first, last = start * 256, (start + size) * 256 - 1
        entries += uuid.UUID(kind).bytes_le + uuid.UUID(int=number + 1).bytes_le
        entries += struct.pack("<QQQ", first, last, 0) + bytes(72)
    entries = entries.ljust(128 * 128, b"\0")
    last = size_mib * 256 - 1
    disk = uuid.UUID(int=7).bytes_le
    header = gpt.header(entries, other=last, usable=(6, last - 5), disk=disk)
    protective = bytes(446) + struct.pack("<4xB3xII", 0xEE, 1, last).ljust(64, b"\0") + b"\x55\xaa"
    with path.open("r+b") as file:
        file.write(protective)
        file.seek(4096)
        file.write(header)
        file.seek(8192)
        file.write(entries)


def test_the_size_of_sectors_is_kept(disk_dir: Path, tree: MakeTree) -> None:
    table = f"label: gpt\nstart=1MiB, size=60MiB, type={ROOT}\n"
    disk = make_disk(disk_dir / "fourk.raw", 64, table, [FileSystem(1, 60, ext4(tree(SYSTEM)))])
    assert inspect(disk)["sector_bytes"] == 512
    with disk.open("r+b") as file:
        file.write(bytes(MIB))
    gpt_of_4096(disk, 64, [(ROOT, 1, 60)])
    found = inspect(disk)
    assert (found["sector_bytes"], found["root_partition"]) == (4096, 1)


def test_a_table_that_contradicts_the_image_is_refused(disk_dir: Path, tree: MakeTree) -> None:
    table = "label: gpt\nstart=1MiB, size=20MiB, type=linux\nstart=32MiB, size=30MiB, type=linux\n"
    disk = make_disk(disk_dir / "cut.raw", 64, table, [FileSystem(1, 20, ext4(tree(SYSTEM)))])
    with disk.open("r+b") as file:
        file.truncate(48 * MIB)
    assert "partition 2 ends at byte" in inspect(disk, code=3)["problems"][0]
    done = run_cli("image", "describe", disk)
    assert (done.returncode, "it was cut" in done.stderr) == (1, True), done.stderr
    assert not disk.with_name("cut.raw.json").exists()


def test_a_full_root_and_what_it_has_are_seen(disk_dir: Path, tree: MakeTree) -> None:
    files = SYSTEM | {
        "etc/cloud/cloud.cfg": "",
        "etc/selinux/config": "SELINUX=enforcing\n",
        "usr/lib/modules/6.1.0-40-amd64/modules.dep": "",
        "var/lib/dpkg/status": "Package: holdfast\nStatus: install ok installed\nVersion: 0.1.0\n",
    }
    table = f"label: gpt\nstart=1MiB, size=30MiB, type={ROOT}\n"
    systems = [FileSystem(1, 30, ext4(tree(files), "-b", "1024"))]
    disk = make_disk(disk_dir / "small.raw", 32, table, systems)
    filler = disk_dir / "filler"
    filler.write_bytes(b"x" * (inspect(disk)["root"]["free_bytes"] - 200_000))
    run("debugfs", "-w", "-R", f"write {filler} filler", f"{disk}?offset={MIB}")
    found = inspect(disk)
    assert 0 < found["root"]["free_bytes"] < MIB
    system = found["system"]
    assert (system["cloud_init"], system["selinux"]) == (True, "enforcing")
    assert (system["kernels"], system["holdfast"]) == (["6.1.0-40-amd64"], "0.1.0")


def test_an_xfs_root_is_looked_into(disk_dir: Path, tree: MakeTree) -> None:
    release = tree(SYSTEM) / "etc/os-release"
    prototype = disk_dir / "prototype"
    prototype.write_text(
        f"/\n0 0\nd--755 0 0\netc d--755 0 0\nos-release ---644 0 0 {release}\n$\n$\n"
    )
    table = "label: gpt\nstart=1MiB, size=310MiB, type=linux\nstart=320MiB, size=400MiB\n"
    systems = [
        FileSystem(1, 310, ("mkfs.xfs", "-q", "-p", str(prototype))),
        FileSystem(320, 400, ("mkfs.xfs", "-q", "-L", "data")),
    ]
    found = inspect(make_disk(disk_dir / "xfs.raw", 730, table, systems))
    assert (found["root_partition"], found["system"]["id"]) == (1, "debian")
    assert "crc" in found["root"]["features"]


def test_a_person_sees_it_all(disk_dir: Path, tree: MakeTree) -> None:
    done = run_cli("image", "inspect", esp_image(disk_dir, tree, "BOOTX64.EFI"))
    assert done.returncode == 0, done.stderr
    for shown in ("partition 2, ext4", "x86_64", "uefi", "Debian GNU/Linux 12", "512 bytes"):
        assert shown in done.stdout, done.stdout


def test_an_image_that_cannot_be_read_is_one_line(disk_dir: Path) -> None:
    odd = disk_dir / "odd.raw"
    odd.write_bytes(b"x" * 1000)
    done = run_cli("image", "inspect", odd)
    assert (done.returncode, "sectors of 512 bytes" in done.stderr) == (1, True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", odd, "1M"], check=True)
    assert "qcow2" in run_cli("image", "inspect", odd).stderr
