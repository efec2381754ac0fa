"""What is in the way of an image on a machine is known before anything is staged or armed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import apply_image_rules
from holdfast.privileged.boot.models import ExplainRequest
from tests.support.disks.bootdisk import BootDisk, boot_disk
from tests.support.machine.loops import MIB, attach

IMAGE: dict[str, Any] = {
    "name": "web",
    "size_bytes": 64 * MIB,
    "boot_modes": ["bios"],
    "inspected": True,
    "architecture": "x86_64",
    "sector_bytes": 512,
    "partition_table": {"partitions": [{"number": 1, "file_system": "ext4"}]},
    "root_partition": 1,
    "root": {"partition": 1, "file_system": "ext4", "free_bytes": 1 << 30, "os_release": True},
}
MACHINE = {"architecture": "x86_64", "boot_mode": "bios"}
TARGET = {"path": "/dev/vda", "size_bytes": 1 << 30, "sector_bytes": 512}
RANGE = {"start_bytes": 2 * MIB, "size_bytes": 32 * MIB}
LARGE = TARGET | {"sector_bytes": 4096}
WISHES = {"identity": True, "grow_root": False}


def refusals(image: dict[str, Any] = IMAGE, **question: object) -> Sequence[str]:
    asked = {"image": image, "machine": MACHINE, "target": TARGET, "wishes": WISHES} | question
    found: Sequence[str] = json.loads(apply_image_rules(json.dumps(asked)))["refusals"]
    return found


def root(**changes: object) -> dict[str, Any]:
    return IMAGE | {"root": IMAGE["root"] | changes}


def on(kind: str | None) -> dict[str, Any]:
    return IMAGE | {"partition_table": {"partitions": [{"number": 1, "file_system": kind}]}}


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (IMAGE | {"architecture": "aarch64"}, "machine is x86_64, and the image is for aarch64"),
        (IMAGE | {"sector_bytes": 4096}, "a disk with sectors of 4096 bytes"),
        (IMAGE | {"boot_modes": []}, "the image in no mode at all"),
        (IMAGE | {"size_bytes": 1 << 40}, "/dev/vda has 1073741824 bytes"),
        (on("f2fs"), "is on f2fs, which the imager does not mount"),
        (on("crypto_LUKS"), "is on crypto_LUKS, which the imager does not mount"),
        (on(None), "has no file system that is known"),
        (root(volume="rl/root"), "is the logical volume rl/root"),
        (
            root(volume="rl/root", volume_problem="is a volume of type raid1"),
            "rl/root (LVM), which is a volume of type raid1; the imager writes to linear volumes",
        ),
        (root(volume="rl/root", volume_range=RANGE, file_system="f2fs"), "is on f2fs"),
        (root(verity=True), "is protected by verity"),
        (root(os_release=False), "has no os-release"),
        (root(free_bytes=24576), "24576 bytes free"),
        (IMAGE | {"root_partition": None, "root": None}, "No root file system was found in web"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused_with_one_sentence(
    image: dict[str, Any], sentence: str
) -> None:
    [found] = refusals(image)
    assert sentence in found


def test_what_is_asked_for_counts() -> None:
    assert refusals() == []
    assert refusals(root(deployment="ostree/deploy/a/deploy/b.0")) == []
    assert refusals(on("btrfs")) == []
    assert refusals(root(subvolume="@")) == []
    on_lvm = on("LVM2_member") | {"root": IMAGE["root"] | {"volume": "rl/root"}}
    on_lvm["root"]["volume_range"] = RANGE
    assert refusals(on_lvm) == []
    nothing = {"identity": False, "grow_root": False}
    assert refusals(on("f2fs"), wishes=nothing) == []
    assert refusals(root(free_bytes=0), wishes={"identity": True, "grow_root": True}) == []


@pytest.mark.parametrize(
    ("image", "target", "sentence"),
    [
        (IMAGE, LARGE, "/dev/vda has sectors of 4096 bytes: its partitions would not be found"),
        (IMAGE | {"sector_bytes": 4096}, TARGET, "Build it for sectors of 512 bytes"),
        (IMAGE | {"sector_bytes": None}, LARGE, "does not state for which sectors"),
        (IMAGE | {"sector_bytes": 4096, "size_bytes": 64 * MIB + 512}, LARGE, "not whole sectors"),
        (IMAGE, TARGET | {"sector_bytes": 8192}, "only disks with sectors of 512 or 4096 bytes"),
    ],
)
def test_an_image_needs_a_disk_of_its_own_sectors(
    image: dict[str, Any], target: dict[str, Any], sentence: str
) -> None:
    [found] = refusals(image, target=target)
    assert sentence in found


def test_a_disk_with_large_sectors_is_written() -> None:
    assert refusals(IMAGE | {"sector_bytes": 4096}, target=LARGE) == []
    # Of an image that is not known yet nothing is judged.
    nothing = {"name": "", "size_bytes": 0, "boot_modes": ["bios"]}
    assert refusals(nothing, target=LARGE, wishes=None) == []


def test_a_descriptor_of_an_older_version_says_what_it_cannot() -> None:
    old = {key: IMAGE[key] for key in ("name", "size_bytes", "boot_modes", "root_partition")}
    old["partition_table"] = IMAGE["partition_table"]
    answer = json.loads(apply_image_rules(json.dumps({"image": old, "machine": MACHINE})))
    assert (answer["refusals"], answer["carried_root"]) == ([], 1)
    assert "did not look into images" in answer["notes"][0]


def explained(disk: BootDisk, image: dict[str, Any] | None = None) -> Sequence[str]:
    request = ExplainRequest(
        roots=["/mnt/data"],
        boot_modes=None if image is None else image["boot_modes"],
        image=None if image is None else json.dumps(image),
    )
    return disk.arming.explain(request).refusals


@contextmanager
def attached(image: Path, size: int) -> Iterator[str]:
    """Attach a file as a disk whose partitions the kernel knows; yield its node."""
    found = attach(image, size)
    try:
        subprocess.run(["partx", "-a", found.device], capture_output=True, check=False)
        yield found.device
    finally:
        subprocess.run(["partx", "-d", found.device], capture_output=True, check=False)
        found.detach()


def test_stale_signatures_and_copies_are_refused_with_what_to_do(disk_dir: Path) -> None:
    with boot_disk(disk_dir, "ext4") as disk:
        before = explained(disk, IMAGE)
        for offset, magic, name in (
            (0x10040, b"_BHRfS_M", "btrfs"),
            (0x20400, bytes.fromhex("0cb1ba0000000000"), "ZFS"),
        ):
            stale = Path(disk.device)
            with stale.open("r+b") as file:
                file.seek(offset)
                kept = file.read(8)
                file.seek(offset)
                file.write(magic)
            [reported] = [reason for reason in explained(disk) if "the whole of" in reason.lower()]
            assert name in reported
            assert f"`wipefs --force --{'all' if name == 'ZFS' else 'offset'}" in reported
            with stale.open("r+b") as file:
                file.seek(offset)
                file.write(kept)
        assert explained(disk, IMAGE) == before
        copy = disk_dir / "copy.raw"
        subprocess.run(["cp", "--sparse=always", disk.image, copy], check=True)
        with attached(copy, copy.stat().st_size) as other:
            found = [reason for reason in explained(disk) if other in reason]
            assert any("of the file system of /" in reason for reason in found), found
        blank = disk_dir / "blank.raw"
        with blank.open("wb") as file:
            file.truncate(16 * MIB)
        uuid = "12345678-9abc-def0-1234-56789abcdef0"
        subprocess.run(["mkfs.ext4", "-q", "-U", uuid, "-L", "web", blank], check=True)
        table = {"partitions": [{"number": 1, "file_system": "ext4", "uuid": uuid}]}
        with attached(blank, 16 * MIB) as other:
            named = explained(disk, IMAGE | {"partition_table": table})
            assert any(f"{other} has the UUID {uuid} of partition 1" in reason for reason in named)
            assert not [reason for reason in explained(disk, IMAGE) if other in reason]
