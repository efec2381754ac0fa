"""Images with a root on LVM, made by its own tools: which are written, and why others are not."""

from __future__ import annotations

from pathlib import Path

from tests.support.disks.images import MIB, run
from tests.support.disks.lvm_images import PHYSICAL, Lvm, described, made, volume


def put_system(disk: Path, start_mib: int, size_mib: int) -> None:
    """Make a root file system at a place of the disk."""
    tree, part = disk.with_name("tree"), disk.with_name("part")
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=rhel\n")
    with part.open("wb") as file:
        file.truncate(size_mib * MIB)
    run("mkfs.ext4", "-q", "-L", "system", "-d", str(tree), part)
    command = ("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start_mib}", "status=none")
    run(*command, "conv=notrunc")


def test_a_linear_volume_is_found_where_it_is_and_written(disk_dir: Path) -> None:
    def make(lvm: Lvm) -> None:
        lvm(*volume("swap", "8m"))
        lvm(*volume("root", "32m"))

    disk = made(disk_dir, make)
    put_system(disk, PHYSICAL[0] + 1 + 8, 32)
    image, refusals = described(disk)
    root = image["root"]
    assert (root["volume"], root["file_system"], root["label"]) == ("rl/root", "ext4", "system")
    place = {"start_bytes": (PHYSICAL[0] + 9) * MIB, "size_bytes": 32 * MIB}
    assert (root["volume_range"], root["volume_problem"], refusals) == (place, None, [])


def test_any_other_volume_is_refused_with_what_it_is(disk_dir: Path) -> None:
    def apart(lvm: Lvm) -> None:
        lvm(*volume("root", "8m"))
        lvm(*volume("swap", "8m"))
        lvm("lvextend", "--quiet", "-L", "24m", "rl/root")

    def striped(lvm: Lvm) -> None:
        lvm(*volume("root", "16m", "-i", "2"))

    def on_two(lvm: Lvm) -> None:
        lvm(*volume("root", "100m"))

    for number, (make, physical, why) in enumerate(
        [
            (apart, 1, "is in 2 pieces that are apart"),
            (striped, 2, "is striped over 2 physical volumes"),
            (on_two, 2, "is on 2 physical volumes"),
        ]
    ):
        directory = disk_dir / str(number)
        directory.mkdir()
        image, [refusal] = described(made(directory, make, physical=physical))
        assert image["root"]["volume"] == "rl/root"
        assert f"is the logical volume rl/root (LVM), which {why}; the imager writes" in refusal
