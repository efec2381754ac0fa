"""Images with a root on LVM, made by its own tools: which are written, and why others are not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import apply_image_rules
from tests.support.harness import run_cli
from tests.support.images import MIB, FileSystem, make_disk, run

PHYSICAL = (48, 120)
"""MiB at which the two physical volumes begin; each has 64."""
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
WISHES = {"identity": True, "grow_root": True}

Lvm = Callable[..., None]


def attach(disk: Path, start_mib: int) -> str:
    command = ["losetup", "--find", "--show", "--offset", str(start_mib * MIB)]
    command += ["--sizelimit", str(64 * MIB), str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"there are no loop devices here: {done.stderr.strip()}")
    return done.stdout.strip()


def lvm(devices: Sequence[str], directory: Path, *command: str) -> None:
    """Run a command of LVM, which sees nothing but these devices and needs no device mapper."""
    seen = ",".join(f'"a|^{device}$|"' for device in devices)
    config = (
        f'devices{{filter=[{seen},"r|.*|"] use_devicesfile=0 scan_lvs=0 '
        'obtain_device_list_from_udev=0 external_device_info_source="none"} '
        "activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0} "
        f'global{{use_lvmpolld=0 locking_dir="{directory}"}}'
    )
    done = subprocess.run(
        ["lvm", command[0], "--driverloaded", "n", "--config", config, "--yes", *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": PATH, "LVM_SUPPRESS_FD_WARNINGS": "1"},
    )
    assert done.returncode == 0, (command, done.stderr)


def made(directory: Path, make: Callable[[Lvm], None], *, physical: int = 1) -> Path:
    """Make an image like RHEL's: a /boot of its own, whose loader names the volume `rl/root`."""
    if shutil.which("lvm", path=PATH) is None:
        pytest.skip("there is no lvm (Debian: lvm2)")
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    boot = directory / "boot"
    (boot / "loader/entries").mkdir(parents=True)
    entry = "options root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root\n"
    (boot / "loader/entries/r.conf").write_text(entry)
    table = "label: gpt\nstart=1MiB, size=40MiB, type=linux\n"
    table += "".join(f"start={at}MiB, size=64MiB, type=lvm\n" for at in PHYSICAL)
    systems = [FileSystem(1, 40, ("mkfs.ext4", "-q", "-d", str(boot)))]
    disk = make_disk(directory / "rhel.raw", 190, table, systems)
    devices = [attach(disk, at) for at in PHYSICAL[:physical]]
    try:
        lvm(devices, directory, "pvcreate", "--quiet", *devices)
        lvm(devices, directory, "vgcreate", "--quiet", "--setautoactivation", "n", "rl", *devices)
        make(lambda *command: lvm(devices, directory, *command))
    finally:
        for device in devices:
            subprocess.run(["losetup", "--detach", device], check=True)
    return disk


def volume(name: str, size: str, *more: str) -> Sequence[str]:
    return ("lvcreate", "--quiet", "-an", "-Zn", "-Wn", "-L", size, "-n", name, *more, "rl")


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


def described(disk: Path) -> tuple[dict[str, Any], Sequence[str]]:
    """Return its descriptor, and why its root would not be written."""
    done = run_cli("image", "describe", disk, "--name", "rhel", "--image-version", "9")
    assert done.returncode == 0, done.stderr
    image: dict[str, Any] = json.loads(disk.with_name(f"{disk.name}.json").read_text())
    question = {"image": image, "wishes": WISHES}
    return image, json.loads(apply_image_rules(json.dumps(question)))["refusals"]


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
