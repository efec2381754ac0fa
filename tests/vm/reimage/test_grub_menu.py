"""GRUB itself, run on a disk that was armed: what it makes of its configuration.

There is no system on the disk, only GRUB: its kernel is noise. So the imager cannot be loaded, and
GRUB has to come back to the old system by itself.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from holdfast.privileged.boot.disk.freeze import settle
from tests.support.daemon.harness import dying_with_parent
from tests.support.disks.bootdisk import boot_disk, run, ubuntu_config
from tests.support.waiting import until

_SECONDS = 120.0


def _boot(image: Path, console: Path, wanted: str) -> str:
    """Boot a disk until something is printed, and answer all that was."""
    console.touch()
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none"),
        *("-serial", f"file:{console}", "-drive", f"file={image},format=raw,if=virtio"),
    ]
    with subprocess.Popen(dying_with_parent(command), stdin=subprocess.DEVNULL) as process:
        try:
            until(
                lambda: wanted in console.read_text(errors="replace"),
                seconds=_SECONDS,
                what=f"{wanted!r} on the console",
                interval=0.1,
            )
        finally:
            process.kill()
    return console.read_text(errors="replace")


def test_ubuntus_menu_after_a_failed_boot_does_not_hold_it_up(disk_dir: Path) -> None:
    with boot_disk(disk_dir) as disk:
        (disk.grub / "grub.cfg").chmod(0o644)
        (disk.grub / "grub.cfg").write_text(ubuntu_config("serial"))
        run("grub-editenv", disk.grub / "grubenv", "set", "recordfail=1")
        disk.arming.arm(disk.request())
        image = disk_dir / "copy.img"
        run("cp", "--sparse=always", disk.image, image)
        printed = _boot(image, disk_dir / "console", "it is old")
        # First the imager, which is no kernel, and then the old system, with nobody at the menu.
        assert printed.index("invalid magic number") < printed.index("it is old")
        # The choice was reverted before the imager was tried.
        environment = replace(disk, image=image).seen_by_grub("/boot/grub/grubenv")
        assert environment is not None
        assert b"\nnext_entry=\n" in environment


def test_one_like_fedoras_reboots_into_the_old_system(disk_dir: Path) -> None:
    """Debian's GRUB runs what is armed for /boot/grub2, where nobody relies on its fallback."""
    with boot_disk(disk_dir) as disk:
        (disk.grub / "grub.cfg").chmod(0o644)
        (disk.grub / "grub.cfg").write_text(ubuntu_config("serial"))
        elsewhere = disk.grub.rename(disk.boot / "grub2")
        disk.arming.arm(disk.request())
        elsewhere.rename(disk.grub)
        settle(disk.boot)
        image = disk_dir / "copy.img"
        run("cp", "--sparse=always", disk.image, image)
        printed = _boot(image, disk_dir / "console", "it is old")
        wanted = ("invalid magic number", "the imager cannot be loaded", "GNU GRUB", "it is old")
        places = [printed.rindex(line) for line in wanted]
        assert places == sorted(places), printed
