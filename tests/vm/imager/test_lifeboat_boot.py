"""A lifeboat is booted by a BIOS from its one sector, and the imager runs with its command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.lifeboat import bios, region
from holdfast.privileged.boot.lifeboat.parts import SWITCH_AT, Region
from holdfast.privileged.boot.payload import cpio
from tests.support.disks.bootdisk import boot_disk
from tests.vm.imager.arming import IMAGER
from tests.vm.imager.images import MIB
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import Drive, running
from tests.vm.pace import TIMER

REGION = Region(80 * MIB + 4096, 48 * MIB)
NONCE = "0123456789abcdef" * 2


@pytest.mark.parametrize(("label", "nvme"), [("dos", False), ("gpt", True)])
def test_one_sector_boots_it(room: Path, debian: Kernel, label: str, nvme: bool) -> None:
    disk, initramfs = room / f"lifeboat-{label}.raw", room / "lifeboat-initramfs.img"
    with disk.open("wb") as file:
        file.truncate(160 * MIB)
    table = f"label: {label}\nstart=1MiB, size=64MiB, type=linux\n"
    subprocess.run(("sfdisk", "-q", disk), input=table, text=True, check=True)
    entries = [
        cpio.directory("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", IMAGER, 0o755),
    ]
    initramfs.write_bytes(b"".join(cpio.archive(entries)))
    words = ["console=ttyS0", "panic=1", TIMER, "a.b=x y", "holdfast.lifeboat"]
    parts = bios.build(REGION, debian.path, initramfs, words, disk.read_bytes()[:512])
    target = os.open(disk, os.O_RDWR)
    try:
        region.write(disk, region.Sink(target, REGION.offset_bytes), REGION, parts, NONCE)
        os.pwrite(target, parts.switch, 0)
    finally:
        os.close(target)
    before = subprocess.run(("sfdisk", "-d", disk), capture_output=True, text=True, check=True)
    assert "size=      131072" in before.stdout

    with running(None, None, [Drive(disk, "root", nvme)], room / "run") as machine:
        machine.on_console(
            f'Command line: .* console=ttyS0 panic=1 {TIMER} "a.b=x y" holdfast.lifeboat'
        )
        machine.on_console("holdfast-imager: refused, and nothing was written: /holdfast/job.json")
        machine.rebooted()


@pytest.mark.parametrize("kind", ["tail", "file"])
def test_what_arming_wrote_boots(room: Path, debian: Kernel, disk_dir: Path, kind: str) -> None:
    with boot_disk(disk_dir) as armed:
        if kind == "file":
            append = ("sfdisk", "--quiet", "--no-reread", "--append", armed.device)
            subprocess.run(append, input="type=83\n", text=True, check=True, capture_output=True)
        shutil.copy(debian.path, armed.boot / f"vmlinuz-{armed.machine.kernel}")
        shutil.copy(IMAGER, armed.arming.imager)
        words = armed.machine.proc / "cmdline"
        words.write_text(f"{TIMER} {words.read_text()}")
        report = armed.arming.arm(armed.request()).lifeboat
        assert report is not None
        assert (report.kind, report.offset_bytes is None) == (kind, False)
        settle(armed.root)
        disk = room / f"armed-{kind}.raw"
        subprocess.run(("cp", "--sparse=always", armed.image, disk), check=True)
        armed.arming.disarm()
    content = disk.read_bytes()
    at = (report.offset_bytes or 0) + SWITCH_AT
    with disk.open("r+b") as file:
        file.write(content[at : at + 512])
        # The old system is not needed any more: only what nothing of the image is written to.
        file.seek(1 << 20)
        file.write(bytes(64 << 20))
    with running(None, None, [Drive(disk, "root")], room / "run") as machine:
        machine.on_console(f"holdfast.nonce={NONCE} holdfast.lifeboat")
        machine.on_console("holdfast-imager: holdfast-imager .*: hello")
