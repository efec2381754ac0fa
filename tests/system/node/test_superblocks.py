"""What is on a device, by whatever made it: compared with what blkid and wipefs report."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import probe_device
from tests.support.disks.images import MIB

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
UUID = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
LVM = (
    'devices{filter=["a|^DEVICE$|","r|.*|"] use_devicesfile=0 scan_lvs=0 '
    'obtain_device_list_from_udev=0 external_device_info_source="none"} '
    "backup{backup=0 archive=0}"
)


@dataclass(frozen=True)
class Made:
    """How a kind of content is made."""

    name: str
    commands: Sequence[str]
    """With `FILE`, `DEVICE` (a loop device over it), `OTHER`, a second file, and `TREE`."""
    mib: int = 32


def ext(name: str, *options: str) -> Made:
    return Made(name, [f"mke2fs -q -F -U {UUID} -L label {' '.join(options)} FILE"])


def xfs(name: str, *options: str) -> Made:
    return Made(name, [f"mkfs.xfs -q -f -m uuid={UUID} -L label {' '.join(options)} FILE"], 320)


def btrfs(name: str, *options: str) -> Made:
    return Made(name, [f"mkfs.btrfs -q -f -U {UUID} -L label {' '.join(options)} FILE"], 160)


def fat(name: str, *options: str, mib: int = 32) -> Made:
    return Made(name, [f"mkfs.vfat -i 1234ABCD -n LABEL {' '.join(options)} FILE"], mib)


def luks(name: str, *options: str) -> Made:
    """The fastest parameters: what is encrypted there does not matter."""
    command = f"cryptsetup -q luksFormat --uuid {UUID} {' '.join(options)} FILE TREE/key"
    return Made(name, [command])


MADE = [
    ext("ext2", "-t", "ext2"),
    ext("ext2-1k", "-t", "ext2", "-b", "1024"),
    ext("ext3", "-t", "ext3"),
    ext("ext4", "-t", "ext4"),
    ext("ext4-1k", "-t", "ext4", "-b", "1024"),
    ext("ext4-old", "-t", "ext4", "-O", "^metadata_csum,^64bit,^flex_bg,^huge_file"),
    ext("ext4-no-journal", "-t", "ext4", "-O", "^has_journal"),
    ext("ext4-bigalloc", "-t", "ext4", "-O", "bigalloc,quota,project"),
    ext("ext4-casefold", "-t", "ext4", "-O", "casefold,encrypt,verity,inline_data,ea_inode"),
    ext("ext4-sparse", "-t", "ext4", "-O", "sparse_super2,meta_bg,^resize_inode,orphan_file"),
    Made("ext-journal", [f"mke2fs -q -F -U {UUID} -O journal_dev FILE"]),
    xfs("xfs"),
    xfs("xfs-4", "-m", "crc=0", "-n", "ftype=1"),
    xfs("xfs-old", "-m", "finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0"),
    xfs("xfs-new", "-m", "rmapbt=1,bigtime=1,inobtcount=1", "-i", "nrext64=1"),
    xfs("xfs-4k-sectors", "-s", "size=4096"),
    xfs("xfs-1k", "-b", "size=1024"),
    btrfs("btrfs"),
    btrfs("btrfs-xxhash", "--csum", "xxhash"),
    btrfs("btrfs-sha256", "--csum", "sha256", "-n", "4096", "-d", "single", "-m", "single"),
    btrfs("btrfs-mixed", "-M", "-n", "4096", "-O", "^no-holes"),
    fat("fat12", "-F", "12", mib=4),
    fat("fat16", "-F", "16"),
    fat("fat32", "-F", "32", mib=64),
    fat("fat32-4k", "-F", "32", "-S", "4096", mib=320),
    Made("swap", [f"mkswap -q -U {UUID} -L label FILE"]),
    Made("swap-64k", [f"mkswap -q -p 65536 -U {UUID} -L label FILE"]),
    Made("squashfs", ["mksquashfs TREE FILE -quiet -no-progress -noappend"]),
    Made("squashfs-xz", ["mksquashfs TREE FILE -quiet -no-progress -noappend -comp xz -b 256K"]),
    Made("erofs", [f"mkfs.erofs -U{UUID} FILE TREE"]),
    Made("erofs-lz4hc", [f"mkfs.erofs -zlz4hc -U{UUID} FILE TREE"]),
    luks("luks1", "--type", "luks1", "--pbkdf-force-iterations", "1000"),
    luks("luks2", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
    luks(
        "luks2-labels",
        *("--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
        *("--label", "label", "--sector-size", "4096", "--luks2-metadata-size", "64k"),
    ),
    Made("verity", [f"veritysetup format --uuid {UUID} OTHER FILE"]),
    Made("lvm", [f"lvm pvcreate -q --driverloaded n --config '{LVM}' DEVICE"]),
    Made(
        "lvm-two-areas",
        [f"lvm pvcreate -q --driverloaded n --config '{LVM}' --pvmetadatacopies 2 DEVICE"],
    ),
    Made(
        "lvm-label-2",
        [f"lvm pvcreate -q --driverloaded n --config '{LVM}' --labelsector 2 DEVICE"],
    ),
    Made("nothing", []),
    Made("random", ["dd if=/dev/urandom of=FILE bs=1M count=8 conv=notrunc status=none"]),
]


def run(command: str, names: dict[str, str]) -> None:
    for name, value in names.items():
        command = command.replace(name, value)
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": PATH, "LVM_SUPPRESS_FD_WARNINGS": "1"},
    )
    if done.returncode != 0:
        why = " ".join(done.stderr.split())[:200]
        pytest.skip(f"it cannot be made here: {why or done.returncode}")


def asked(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH}
    )
    return done.stdout


def make(made: Made, directory: Path) -> Path:
    """Make it in a file; skips the test where this machine cannot."""
    for command in made.commands:
        program = command.split()[0]
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"there is no {program}")
    file, tree, other = (directory / name for name in ("file", "tree", "other"))
    tree.mkdir()
    (tree / "key").write_text("secret")
    for path in (file, other):
        with path.open("wb") as opened:
            opened.truncate(made.mib * MIB)
    names = {"FILE": str(file), "TREE": str(tree), "OTHER": str(other)}
    if not any("DEVICE" in command for command in made.commands):
        for command in made.commands:
            run(command, names)
        return file
    attached = asked("losetup", "--find", "--show", str(file)).strip()
    if not attached:
        pytest.skip("there are no loop devices here")
    try:
        for command in made.commands:
            run(command, names | {"DEVICE": attached})
    finally:
        subprocess.run(["losetup", "--detach", attached], check=True)
    return file


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_it_is_what_blkid_and_wipefs_say(made: Made, tmp_path: Path) -> None:
    file = make(made, tmp_path)
    report = json.loads(probe_device(file))
    found = report["signatures"]
    text = asked("blkid", "-p", "-o", "export", str(file))
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    wiped = asked("wipefs", "--noheadings", str(file)).split()
    if known.get("TYPE") == "jbd":
        # A journal by itself is no file system that could be mounted.
        assert found == []
        return
    assert [signature["type"] for signature in found[:1]] == (
        [known["TYPE"]] if "TYPE" in known else []
    )
    if not found:
        assert wiped == []  # nor is there anything that it would clear
        return
    first: dict[str, Any] = found[0]
    uuid = known.get("UUID")
    assert first["uuid"] == uuid
    label = known.get("LABEL")
    assert first["label"] == label
    # The command that is suggested clears it.
    command = re.search(r"`(wipefs [^`]*)`", report["refused_as_disk"] or "")
    assert (command is None) == (first["type"] == "vfat")
    for _ in range(8):
        if command is not None:
            asked(*shlex.split(command[1]))
            report = json.loads(probe_device(file))
            command = re.search(r"`(wipefs [^`]*)`", report["refused_as_disk"] or "")
    assert report["refused_as_disk"] is None
