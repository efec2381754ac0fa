"""A machine with Secure Boot becomes another image: everything on the way to it is signed.

Its firmware trusts what machines are sold to trust; shim, GRUB and the kernel are Debian's. The
image is packed by gzip, and known by a signature alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.image import CACHE
from tests.vm.reimage.conftest import Start
from tests.vm.reimage.controller import boot_id
from tests.vm.reimage.images import NEW_IMAGE, OLD_IMAGE, Systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, Node
from tests.vm.reimage.published import publishing
from tests.vm.reimage.story import (
    IMAGE_SECONDS,
    STARTED,
    arm,
    back_in_the_old_system,
    boot_files,
    stage,
)
from tests.vm.reimage.telling import tell
from tests.vm.reimage.uefi import uefi_disks, uefi_systems

# The value follows four bytes of attributes.
_IS_ON = r"""
test "$(od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*)" -eq 1
grep -F '[integrity]' /sys/kernel/security/lockdown
"""
# In place: where GRUB looks, it is another file than the signed one.
_DAMAGE_THE_KERNEL = r"""
printf 'x' | dd of=/boot/holdfast/vmlinuz bs=1 seek=1000000 conv=notrunc status=none
sync
"""
_TRUST = """
install -d -m 0755 /etc/holdfast/trusted-keys.d
cat >/etc/holdfast/trusted-keys.d/release.pem <<'END'
{key}END
"""


@pytest.fixture(scope="module")
def image(made: Systems) -> Path:
    """Image ABC for a machine with shim, packed by gzip."""
    raw = uefi_systems(made, "shim").image
    packed = raw.with_name("abc.raw.gz")
    if not packed.exists():
        partial = packed.with_suffix(".partial")
        with partial.open("wb") as file:
            subprocess.run(("gzip", "-1", "-c", raw), stdout=file, check=True)
        partial.rename(packed)
    return packed


def _holdfast(*words: str | Path) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "holdfast", *words), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _reboot_into_the_imager(node: Node) -> str:
    """Order the reboot; answer which boot this was."""
    old = boot_id(node.control.get("/v1/node"))
    assert node.control.post("/v1/reimage/reboot")["state"] == "rebooting"
    return old


def test_a_machine_with_secure_boot_becomes_another_image(
    start: Start, made: Systems, installed: Disks, image: Path, tmp_path: Path
) -> None:
    directory = CACHE / f"secure-{os.getpid()}"
    disks = uefi_disks(made, installed, "shim").copy(directory)
    with publishing(image) as published, start(disks=disks) as node:
        control = node.control
        assert control.answers(BOOT_SECONDS)["image_id"] == OLD_IMAGE
        node.settled()
        node.guest.sh(_IS_ON)
        files = boot_files(node)

        tell("signing the image's descriptor")
        descriptor = image.parent / published.name
        _holdfast("image", "keygen", tmp_path / "release")
        _holdfast("image", "sign", descriptor, "--key", tmp_path / "release.key")
        request = {"descriptor": published.server.url(published.name)}
        refused = control.post("/v1/reimage/plan", request, code=422)
        assert "There is no trusted key" in refused["detail"], refused
        node.guest.sh(_TRUST.format(key=(tmp_path / "release.pem").read_text()))

        operation = stage(control, request)
        assert arm(control)["boot"]["loader"] == "grub2-uefi"
        tell("with a kernel that is not the signed one")
        node.guest.sh(_DAMAGE_THE_KERNEL)
        printed = len(node.console)
        old = _reboot_into_the_imager(node)
        control.answers(BOOT_SECONDS, not_boot=old)
        assert STARTED not in node.console[printed:]
        assert "bad shim signature" in node.console[printed:]
        found = back_in_the_old_system(node, operation)
        assert found["state"] == "failed"
        assert "left no word" in found["reason"], found["reason"]
        node.settled()
        assert boot_files(node) == files

        tell("with the signed one")
        operation = stage(control, request)
        arm(control)
        printed = len(node.console)
        old = _reboot_into_the_imager(node)
        node.on_console(STARTED, BOOT_SECONDS, after=printed)
        new = control.answers(IMAGE_SECONDS, not_boot=old)
        done = control.finished(operation, 600)
        assert done["state"] == "succeeded", done
        assert new["image_id"] == NEW_IMAGE
        assert control.get("/v1/reimage")["image"]["signed_by"] == "release"
        node.settled()
        node.guest.sh(_IS_ON)
    shutil.rmtree(directory)
