"""Boot loaders besides GRUB on a BIOS: each boots the imager once, and then the old system again.

The machine has UEFI. What is staged is damaged, so that the imager refuses it and nothing is
written: the machine passes its boot loader three times.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.vm.image import CACHE
from tests.vm.reimage.conftest import Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, Systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node
from tests.vm.reimage.published import Published, publishing
from tests.vm.reimage.story import (
    IMAGE_SECONDS,
    STARTED,
    arm,
    back_in_the_old_system,
    boot_files,
    stage,
)
from tests.vm.reimage.telling import tell
from tests.vm.reimage.uefi import Loader, small_image, uefi_disks, uefi_systems

# Of what the firmware remembers, all that arming could change.
_VARIABLES = r"""
cd /sys/firmware/efi/efivars && sha256sum Boot[0-9]* BootNext-* BootOrder-* LoaderEntry*
ls | grep -v -e ^Loader -e ^Boot
"""
_DAMAGE = r"""
image=$(find /mnt/data/.holdfast -type f -name image)
dd if=/dev/zero of="$image" bs=4096 seek=2048 count=1 conv=notrunc status=none
sync
"""


def _variables(node: Node) -> str:
    return node.guest.sh(_VARIABLES, check=False)


@pytest.mark.parametrize("name", ["grub2-uefi", "systemd-boot", "efi-bootnext"])
def test_it_boots_the_imager_once(
    start: Start, made: Systems, installed: Disks, tmp_path: Path, name: str
) -> None:
    on_disk: Loader = "systemd-boot" if name == "systemd-boot" else "grub"
    disks = uefi_disks(made, installed, on_disk).copy(CACHE / f"loader-{os.getpid()}")
    with publishing(small_image(tmp_path)) as published, start(disks=disks) as node:
        node.control.answers(BOOT_SECONDS)
        node.settled()
        files, variables = boot_files(node), _variables(node)
        operation = stage(node.control, published.request(identity=[]))
        if name == "efi-bootnext":
            # The firmware starts the kernel where there is no boot loader that is known.
            node.guest.sh("mv /boot/grub/grub.cfg /root/")

        now = boot_files(node), _variables(node)
        rehearsed = node.control.post("/v1/reimage/arm", {"dry_run": True})
        assert (rehearsed["state"], rehearsed["boot"]["loader"]) == ("staged", name)
        assert (boot_files(node), _variables(node)) == now
        assert arm(node.control)["boot"]["loader"] == name
        armed = boot_files(node), _variables(node)
        assert node.control.post("/v1/reimage/reboot", {"dry_run": True})["state"] == "armed"
        assert (boot_files(node), _variables(node)) == armed
        assert node.control.post("/v1/reimage/disarm")["state"] == "staged"
        if name != "efi-bootnext":
            assert boot_files(node) == files
        assert _variables(node) == variables

        arm(node.control)
        assert (boot_files(node), _variables(node)) != (files, variables)
        if name == "efi-bootnext":
            node.guest.sh("mv /root/grub.cfg /boot/grub/")
        node.guest.sh(_DAMAGE)
        tell("rebooting into the imager")
        printed = len(node.console)
        assert node.control.post("/v1/reimage/reboot")["state"] == "rebooting"
        node.on_console(STARTED, BOOT_SECONDS, after=printed)
        found = back_in_the_old_system(node, operation)
        assert found["state"] == "failed"
        assert "verif" in found["reason"], found["reason"]
        assert node.control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
        node.settled()
        assert boot_files(node) == files
        assert _variables(node) == variables
    shutil.rmtree(CACHE / f"loader-{os.getpid()}")


_ALLOW_KEXEC = """
printf '[reimage]\\nallow_kexec = true\\n' >>/etc/holdfast/holdfast.toml
systemctl restart holdfast
"""


def test_kexec_boots_the_imager_where_it_may(start: Start, published: Published) -> None:
    with start() as node:
        control = node.control
        control.answers(BOOT_SECONDS)
        node.settled()
        files = boot_files(node)
        # As on a machine that is booted from outside.
        node.guest.sh("mv /boot/grub/grub.cfg /root/")
        request = published.request(identity=[])
        plan = control.post("/v1/reimage/plan", request)
        assert not plan["ok"]
        assert "There is no GRUB 2" in " ".join(plan["blocked"]), plan["blocked"]
        node.guest.sh(_ALLOW_KEXEC)
        control.answers(BOOT_SECONDS)
        operation = stage(control, request)

        assert arm(control)["boot"]["loader"] == "kexec"
        assert control.post("/v1/reimage/disarm")["state"] == "staged"
        arm(control)
        node.guest.sh("mv /root/grub.cfg /boot/grub/")
        assert boot_files(node) == files, "nothing that boots the machine is changed"
        node.guest.sh(_DAMAGE)
        tell("rebooting into the imager")
        printed = len(node.console)
        assert control.post("/v1/reimage/reboot")["state"] == "rebooting"
        node.on_console(STARTED, BOOT_SECONDS, after=printed)
        assert "GRUB" not in node.console[printed:].partition(STARTED)[0]
        found = back_in_the_old_system(node, operation)
        assert found["state"] == "failed"
        assert "verif" in found["reason"], found["reason"]
        assert boot_files(node) == files


@pytest.mark.parametrize("loader", ["grub", "systemd-boot"])
def test_a_machine_with_uefi_becomes_another_image(
    start: Start, made: Systems, installed: Disks, loader: Loader
) -> None:
    disks = uefi_disks(made, installed, loader).copy(CACHE / f"loader-{os.getpid()}")
    image = uefi_systems(made, loader).packed
    with publishing(image) as published, start(disks=disks) as node:
        old = node.control.answers(BOOT_SECONDS)
        assert old["image_id"] == OLD_IMAGE
        node.settled()
        operation = stage(node.control, published.request())
        arm(node.control)
        printed = len(node.console)
        assert node.control.post("/v1/reimage/reboot")["state"] == "rebooting"
        node.on_console(STARTED, BOOT_SECONDS, after=printed)
        tell("the imager has started")
        new = node.control.answers(IMAGE_SECONDS, not_boot=boot_id(old))
        done = node.control.finished(operation, 600)
        assert done["state"] == "succeeded", done
        assert new["image_id"] == NEW_IMAGE
        node.settled()
        # Nothing of the arming is left, neither on the disk nor in the firmware.
        assert "holdfast" not in _variables(node)
        assert (
            node.guest.sh("ls /sys/firmware/efi/efivars | grep -e OneShot -e BootNext || true")
            == ""
        )
    shutil.rmtree(CACHE / f"loader-{os.getpid()}")
