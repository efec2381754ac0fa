"""UEFI boots a lifeboat from the one sector of a header, whatever boot loader the node has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.privileged.boot.disk.gpt import ESP, partition_at
from holdfast.privileged.boot.lifeboat import region, uefi
from holdfast.privileged.boot.lifeboat.efi_loader import EfiLoader, choose
from holdfast.privileged.boot.lifeboat.parts import Region
from holdfast.privileged.boot.payload import cpio
from tests.vm.imager.arming import IMAGER
from tests.vm.imager.images import MIB
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import PROCESSORS, Drive, running
from tests.vm.pace import TIMER
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.reimage.firmware import OVMF, SECURE_OVMF, Firmware

REGION = Region(80 * MIB + 4096, 60 * MIB)
NONCE = "0123456789abcdef" * 2
WORDS = ["console=ttyS0", "panic=1", TIMER, "a.b=x y", "holdfast.lifeboat"]
DISK_BYTES = 160 * MIB
_SECONDS = 420.0
_SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
_GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
_SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")


_PARTITION = """
loop=$(losetup --find --show --sector-size "$2" "$1")
trap 'losetup --detach "$loop"' EXIT
sfdisk --quiet "$loop" <<<"$3"
"""


def _no_programs(esp: Path) -> None:
    (esp / "EFI").mkdir()


def _shim(esp: Path) -> None:
    directory = esp / "EFI/debian"
    directory.mkdir(parents=True)
    shutil.copy(_SHIM, directory / "shimx64.efi")
    shutil.copy(_GRUB, directory / "grubx64.efi")
    (directory / "grub.cfg").write_text("search.fs_uuid 0 root\n")


def _systemd_boot(esp: Path) -> None:
    directory = esp / "EFI/systemd"
    directory.mkdir(parents=True)
    shutil.copy(_SYSTEMD_BOOT, directory / "systemd-bootx64.efi")


@dataclass(frozen=True)
class Node:
    """What a machine has on its system partition, and its firmware."""

    fill: Callable[[Path], None]
    loader: str
    made: bool = False
    """Whether it has GRUB's modules."""
    firmware: Firmware = OVMF
    sector_bytes: int = 512
    paths: tuple[str, ...] = ()


NODES = {
    "made": Node(_no_programs, "grub", made=True, paths=("EFI/debian/grubx64.efi",)),
    "made-4096": Node(_no_programs, "grub", made=True, sector_bytes=4096),
    "shim": Node(_shim, "shim", firmware=SECURE_OVMF, paths=("EFI/debian/shimx64.efi",)),
    "systemd-boot": Node(_systemd_boot, "systemd-boot"),
}


def _loader(node: Node, esp: Path) -> EfiLoader:
    node.fill(esp)
    directories = {} if node.made else {"directories": ()}
    secure = node.firmware is SECURE_OVMF
    loader = choose(esp, secure_boot=secure, **directories)
    assert (loader.name, loader.modules is not None) == (node.loader, node.made)
    return loader


@pytest.mark.parametrize("name", NODES)
def test_one_sector_boots_it(room: Path, debian: Kernel, tmp_path: Path, name: str) -> None:
    node = NODES[name]
    disk, initramfs = room / f"lifeboat-{name}.raw", room / f"lifeboat-{name}.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    size = node.sector_bytes
    table = f"label: gpt\nstart={MIB // size}, size={8 * MIB // size}, type={ESP}\n"
    in_own_mounts(_PARTITION, disk, str(size), table)
    entries = [
        cpio.directory("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", IMAGER, 0o755),
    ]
    initramfs.write_bytes(b"".join(cpio.archive(entries)))
    partition = partition_at(disk, MIB, size)
    assert partition is not None
    content = disk.read_bytes()
    old = uefi.OldDisk(content[:512], content[size : 2 * size], partition, node.paths)

    loader = _loader(node, tmp_path)
    parts = uefi.build(
        REGION, debian.path, initramfs, WORDS, old=old, loader=loader, sector_bytes=size
    )
    target = os.open(disk, os.O_RDWR)
    try:
        region.write(disk, region.Sink(target, REGION.offset_bytes), REGION, parts, NONCE)
        os.pwrite(target, parts.switch, parts.switch_lba * size)
        # Nothing else of the old system is needed.
        os.pwrite(target, bytes(MIB - 2 * size), 2 * size)
        os.pwrite(target, bytes(MIB), DISK_BYTES - MIB)
    finally:
        os.close(target)
    before = disk.read_bytes()

    variables = room / f"lifeboat-{name}.fd"
    shutil.copy(node.firmware.variables, variables)
    flash = "if=pflash,format=raw"
    options = (
        *PROCESSORS,
        *("-machine", node.firmware.machine),
        *node.firmware.options,
        *("-drive", f"{flash},unit=0,readonly=on,file={node.firmware.code}"),
        *("-drive", f"{flash},unit=1,file={variables}"),
    )
    drives = [Drive(disk, "root", sector_bytes=size)]
    with running(None, None, drives, room / name, memory_mib=512, options=options) as machine:
        machine.on_console(
            rf'Command line: .*console=ttyS0 panic=1 {TIMER} "a.b=x y" holdfast.lifeboat', _SECONDS
        )
        machine.on_console("holdfast-imager: refused, and nothing was written: /holdfast/job.json")
        machine.rebooted()
    assert disk.read_bytes() == before, "the firmware wrote to the disk"
