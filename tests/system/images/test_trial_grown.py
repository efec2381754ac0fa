"""The trial of a root that is extended, on a partition and on a logical volume."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks.images import MIB, FileSystem, make_disk, run
from tests.support.disks.lvm_images import PHYSICAL, Lvm, described, made, volume
from tests.support.disks.trials import IMAGER, SYSTEM, ext4_disk, make_tree

DISK_BYTES = 400 * MIB
MANY = 14
"""Files of 1 MiB, which do not fit into a root of 32 MiB of which 20 are taken."""
CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h


@pytest.fixture(autouse=True)
def able() -> None:
    if os.geteuid() != 0 or not IMAGER.exists():
        pytest.skip("loop devices are root's, and `make imager` builds the imager")


def tried(
    disk: Path, *, disk_bytes: int | None = DISK_BYTES, files: int = 0
) -> dict[str, dict[str, str]]:
    """Return the rows of the trial of a disk's image on a disk of this size."""
    image, _ = described(disk)
    contents = {"/etc/hostname": b"node-7\n"}
    contents |= {f"/etc/holdfast/{number}": bytes(MIB) for number in range(files)}
    owner = {"mode": 0o644, "uid": 0, "gid": 0, "user": "root", "group": "root"}
    carried = [
        {"path": path, "content": base64.b64encode(content).decode(), **owner}
        for path, content in contents.items()
    ]
    request: dict[str, Any] = {
        "descriptor": json.dumps(image),
        "image": str(disk),
        "scratch": str(disk.parent),
        "floor_bytes": 0,
        "identity": {"files": carried},
        "grow_to_bytes": disk_bytes,
    }
    before = disk.read_bytes()
    done = subprocess.run(
        [IMAGER, "try"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert disk.read_bytes() == before
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    return {row["check"]: row for row in rows}


def unlike_passed(rows: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in rows.values() if row["outcome"] != "passed"]


def make_of(kind: str, tree: Path) -> tuple[str | Path, ...]:
    """Return the command that makes a small file system of a tree."""
    if kind == "btrfs":
        return ("mkfs.btrfs", "-q", "--mixed", "-m", "single", "-d", "single", "--rootdir", tree)
    return ("mkfs.ext4", "-q", "-d", tree)


def skip_unless_extended(kind: str) -> None:
    """Skip what the kernel only extends for who has CAP_SYS_RESOURCE, as root has elsewhere."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    if kind == "ext4" and not capabilities & 1 << CAP_SYS_RESOURCE:
        pytest.skip("root has no CAP_SYS_RESOURCE here, without which no ext4 is extended")


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_what_has_no_space_is_carried_into_an_extended_root(disk_dir: Path, kind: str) -> None:
    skip_unless_extended(kind)
    tree = make_tree(disk_dir / "tree", SYSTEM)
    (tree / "filler").write_bytes(bytes(20 * MIB))
    make = make_of(kind, tree)
    table = "label: gpt\nstart=1MiB, size=32MiB, type=linux\n"
    disk = make_disk(
        disk_dir / "a.raw", 40, table, [FileSystem(1, 32, [str(word) for word in make])]
    )
    rows = tried(disk, disk_bytes=None, files=MANY)
    assert (rows["identity"]["outcome"], "grow" in rows) == ("failed", False), rows
    assert "o space left" in rows["identity"]["detail"]
    rows = tried(disk, files=MANY)
    assert unlike_passed(rows) == []
    assert rows["grow"]["outcome"] == "passed"


def test_a_file_system_that_cannot_be_extended_is_a_warning(disk_dir: Path) -> None:
    # By no kernel, beyond what its group descriptors have space for.
    options = ("-b", "1024", "-O", "^resize_inode,^meta_bg,^64bit")
    rows = tried(ext4_disk(disk_dir, options=options, size_mib=30))
    assert rows["grow"]["outcome"] == "warning", rows
    assert "would not be extended" in rows["grow"]["detail"]
    assert rows["identity"]["outcome"] == "passed"


def test_a_root_that_is_not_the_last_partition_is_not_extended(disk_dir: Path) -> None:
    rows = tried(ext4_disk(disk_dir, second="start=61MiB, size=4MiB, type=linux\n"))
    assert "grow" not in rows
    assert rows["identity"]["outcome"] == "passed"


def lvm_disk(directory: Path, *names: str) -> Path:
    """Make an image like RHEL's, with a system on the volume `root`, of 32 MiB."""

    def make(lvm: Lvm) -> None:
        for name in names:
            lvm(*volume(name, "32m" if name == "root" else "8m"))

    disk = made(directory, make)
    # The second partition of `made` would be behind it.
    run("sfdisk", "--quiet", "--delete", disk, "3")
    tree = make_tree(directory / "system", SYSTEM)
    at = PHYSICAL[0] + 1 + (8 if names[0] != "root" else 0)
    part = directory / "root.part"
    with part.open("wb") as file:
        file.truncate(32 * MIB)
    run(*make_of("btrfs", tree), part)
    command = ("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={at}", "conv=notrunc")
    run(*command, "status=none")
    part.unlink()
    return disk


def test_a_root_on_a_logical_volume_is_tried_and_extended(disk_dir: Path) -> None:
    disk = lvm_disk(disk_dir, "swap", "root")
    rows = tried(disk, disk_bytes=None)
    assert unlike_passed(rows) == []
    assert "grow" not in rows
    rows = tried(disk)
    assert unlike_passed(rows) == []
    assert rows["grow"]["outcome"] == "passed"
    assert int(rows["space"]["detail"].split()[3]) > 200 * MIB


def test_a_logical_volume_with_another_behind_it_is_not_extended(disk_dir: Path) -> None:
    rows = tried(lvm_disk(disk_dir, "root", "swap"))
    assert rows["grow"]["outcome"] == "warning", rows
    assert "another one is behind it" in rows["grow"]["detail"]
    assert rows["identity"]["outcome"] == "passed"


@pytest.mark.parametrize(("program", "kind"), [("mksquashfs", "squashfs"), ("mkfs.erofs", "erofs")])
def test_a_root_that_cannot_be_written_is_refused_before_anything_changes(
    disk_dir: Path, program: str, kind: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    tree, part = make_tree(disk_dir / "tree", SYSTEM), disk_dir / "part"
    if kind == "squashfs":
        run(program, tree, part, "-quiet", "-no-progress")
    else:
        run(program, part, tree)
    part_mib = part.stat().st_size // MIB + 1
    table = (
        f"label: gpt\nstart=1MiB, size={part_mib}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n"
    )
    disk = make_disk(disk_dir / "a.raw", part_mib + 3, table, [])
    run("dd", f"if={part}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
    image, refusals = described(disk)
    assert image["partition_table"]["partitions"][0]["file_system"] == kind
    assert any(f"is on {kind}, which the imager does not mount" in why for why in refusals)
    rows = tried(disk)
    assert "write" not in rows
    assert f"is on {kind}" in rows["identity" if "identity" in rows else "mount"]["detail"]
