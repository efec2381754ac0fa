"""Disk images with a root on LVM, made by LVM's own tools."""

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
from tests.support.daemon.harness import run_cli
from tests.support.disks.images import MIB, FileSystem, make_disk

PHYSICAL = (48, 120)
"""MiB at which the two physical volumes begin; each has 64."""
_WISHES = {"identity": True, "grow_root": True}
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
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


def described(disk: Path) -> tuple[dict[str, Any], Sequence[str]]:
    """Return its descriptor, and why its root would not be written."""
    done = run_cli("image", "describe", disk, "--name", "rhel", "--image-version", "9")
    assert done.returncode == 0, done.stderr
    image: dict[str, Any] = json.loads(disk.with_name(f"{disk.name}.json").read_text())
    question = {"image": image, "wishes": _WISHES}
    return image, json.loads(apply_image_rules(json.dumps(question)))["refusals"]
