"""What arming is refused for, each found before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.disk.extents import extents_of, single_place
from holdfast.privileged.boot.models import ExplainRequest, StagedImage
from holdfast.privileged.writes import Refused
from tests.support.disks.bootdisk import DESCRIPTOR, STATE, BootDisk, boot_disk, run
from tests.support.machine.loops import MIB, loop
from tests.support.machine.mounts import mounted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootDisk]:
    with boot_disk(tmp_path_factory.mktemp("boot")) as found:
        yield found


@pytest.fixture(autouse=True)
def as_before(disk: BootDisk) -> Iterator[None]:
    """Put GRUB's files back, whatever a test made of them."""
    files = {path: path.read_bytes() for path in (disk.grub / "grub.cfg", disk.grub / "grubenv")}
    yield
    for path, content in files.items():
        if path.is_symlink() or path.is_dir():
            path.unlink()
        path.write_bytes(content)
    for name in ("custom.cfg", "foreign"):
        (disk.grub / name).unlink(missing_ok=True)


def refused(disk: BootDisk, sentence: str, boot: Boot | None = None, **changes: Any) -> None:
    """Arming is refused with this sentence, and changes nothing."""
    before = disk.state()
    with pytest.raises(Refused, match=sentence):
        (boot or disk.arming).arm(disk.request(**changes))
    assert disk.state() == before


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


class TestGrubsFiles:
    def test_no_grub_cfg(self, disk: BootDisk) -> None:
        (disk.grub / "grub.cfg").unlink()
        refused(disk, r"There is no GRUB 2 here: neither /boot/grub/grub\.cfg")

    def test_one_that_does_not_source_custom_cfg(self, disk: BootDisk) -> None:
        edit(disk.grub / "grub.cfg", lambda text: text.replace(b"custom.cfg", b"other.cfg"))
        refused(disk, r"/boot/grub/grub\.cfg does not source custom\.cfg")

    @pytest.mark.parametrize("word", [b"load_env", b"save_env", b"${next_entry}"])
    def test_one_that_does_not_boot_an_entry_once(self, disk: BootDisk, word: bytes) -> None:
        edit(disk.grub / "grub.cfg", lambda text: text.replace(word, b"nothing"))
        refused(disk, "does not boot `next_entry` of grubenv once")

    def test_no_environment(self, disk: BootDisk) -> None:
        (disk.grub / "grubenv").unlink()
        refused(disk, r"There is no /boot/grub/grubenv; `grub-editenv - create`")

    @pytest.mark.parametrize("size", [0, 512, 2048])
    def test_one_of_the_wrong_size(self, disk: BootDisk, size: int) -> None:
        edit(disk.grub / "grubenv", lambda block: block.ljust(size, b"#")[:size])
        refused(disk, f"/boot/grub/grubenv has {size} bytes instead of 1024")

    def test_one_that_is_something_else(self, disk: BootDisk) -> None:
        edit(disk.grub / "grubenv", lambda block: b"x" * len(block))
        refused(disk, "grubenv does not begin with `# GRUB Environment Block`")

    def test_one_behind_a_symbolic_link(self, disk: BootDisk) -> None:
        environment = disk.grub / "grubenv"
        environment.rename(disk.grub / "elsewhere")
        environment.symlink_to("elsewhere")
        refused(disk, r"/boot/grub/grubenv is not a regular file")
        (disk.grub / "elsewhere").unlink()

    def test_one_that_is_on_the_disk_only_in_part(self, disk: BootDisk) -> None:
        # Of a file that is preallocated and never written, the disk has anything.
        environment = disk.grub / "grubenv"
        environment.unlink()
        file = os.open(environment, os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(file, 0, 1024)
        os.close(file)
        refused(disk, "grubenv does not begin with")
        with pytest.raises(OSError, match="not plainly on the disk"):
            extents_of(environment)

    def test_a_full_one(self, disk: BootDisk) -> None:
        left = (disk.grub / "grubenv").read_bytes()
        padding = len(left) - len(left.rstrip(b"#"))
        run("grub-editenv", disk.grub / "grubenv", "set", "long=" + "x" * (padding - 16))
        refused(disk, "grubenv is full")

    def test_somebody_elses_next_entry(self, disk: BootDisk) -> None:
        run("grub-editenv", disk.grub / "grubenv", "set", "next_entry=memtest")
        refused(disk, "next_entry of another program, 'memtest'")

    @pytest.mark.parametrize(
        ("variable", "sentence"),
        [
            ("env_block=512+1", "env_block set: GRUB writes its variables elsewhere"),
            ("boot_counter=2", "counts boots until the system is rolled back"),
        ],
    )
    def test_what_would_keep_or_spend_the_choice(
        self, disk: BootDisk, variable: str, sentence: str
    ) -> None:
        run("grub-editenv", disk.grub / "grubenv", "set", variable)
        refused(disk, sentence)

    def test_an_entry_of_an_earlier_arming(self, disk: BootDisk) -> None:
        boot = disk.arming
        boot.arm(disk.request())
        refused(disk, "still has an entry of an earlier arming; disarm first")
        boot.disarm()

    def test_half_an_entry(self, disk: BootDisk) -> None:
        (disk.grub / "custom.cfg").write_bytes(
            b"### BEGIN holdfast: taken out again by `holdfast reimage disarm` ###\n"
        )
        refused(disk, "damaged marks")
        with pytest.raises(Refused, match="take them out by hand"):
            disk.arming.disarm()


def test_a_file_in_two_pieces_is_told_from_one_in_one(disk: BootDisk) -> None:
    pieces, between = disk.boot / "pieces", disk.boot / "between"
    with pieces.open("wb", buffering=0) as file, between.open("wb", buffering=0) as other:
        for _ in range(2):
            file.write(b"x" * 8192)
            os.fsync(file.fileno())
            other.write(b"y" * 8192)
            os.fsync(other.fileno())
    shown = run("filefrag", pieces)
    assert "1 extent" not in shown, shown
    with pytest.raises(OSError, match="not in one piece on the disk"):
        single_place(extents_of(pieces), 16384, pieces)
    pieces.unlink()
    between.unlink()


class TestTheMachine:
    def test_loop_devices_are_no_disks(self, disk: BootDisk) -> None:
        boot = replace(disk.arming, machine=replace(disk.machine, loop_disks=False))
        refused(disk, "/ is on a partition of /dev/loop[0-9]+, which is not a disk", boot)

    def test_this_machines_own_root(self) -> None:
        """Whatever it is on here, no loop device is taken for a disk; nothing is written."""
        report = Boot(MachineFiles()).explain(ExplainRequest(roots=["/"]))
        assert report.refusals

    def test_a_root_on_no_partition(self, disk: BootDisk, disk_dir: Path) -> None:
        with loop(disk_dir / "whole", 64 * MIB) as found:
            run("mkfs.ext4", "-q", "-F", found.device)
            with mounted(disk_dir / "root", found.device) as root:
                boot = Boot(replace(disk.machine, root=root))
                report = boot.explain(ExplainRequest(roots=["/mnt/data"]))
                assert any("as a whole, which is not a partition" in one for one in report.refusals)

    def test_a_root_on_tmpfs_or_overlay(self, disk: BootDisk, disk_dir: Path) -> None:
        for kind, options in (
            ("tmpfs", ()),
            ("overlay", ("-o", "lowerdir=/etc:/usr")),
        ):
            with mounted(disk_dir / kind, "-t", kind, *options, "none") as root:
                boot = Boot(replace(disk.machine, root=root))
                report = boot.explain(ExplainRequest(roots=["/mnt/data"]))
                wanted = f"/ is on {kind} (none), which is no partition"
                assert any(one.startswith(wanted) for one in report.refusals)

    def test_a_data_root_on_the_same_disk(self, disk: BootDisk) -> None:
        (disk.root / "mnt/data").mkdir(parents=True, exist_ok=True)
        refused(disk, "The root /mnt/data is on /dev/loop[0-9]+, the disk that would be written")
        staged = StagedImage(path="/mnt/data/image")
        report = disk.arming.explain(ExplainRequest(roots=["/mnt/data"], source=staged))
        assert any("staged image is on the disk" in one for one in report.refusals)
        (disk.root / "mnt/data").rmdir()

    def test_a_kernel_that_is_not_there_any_more(self, disk: BootDisk) -> None:
        boot = replace(disk.arming, machine=replace(disk.machine, kernel="5.0.0-gone"))
        refused(disk, r"There is no /boot/vmlinuz-5\.0\.0-gone, the kernel that runs now", boot)

    def test_no_imager(self, disk: BootDisk) -> None:
        boot = replace(disk.arming, imager=Path("/nowhere"))
        refused(disk, "There is no imager at /nowhere", boot)

    def test_boot_is_full(self, disk: BootDisk) -> None:
        space = os.statvfs(disk.boot)
        filler = disk.boot / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (4 << 20))
        refused(disk, "/boot has [0-9]+ bytes free, and [0-9]+ are needed")
        filler.unlink()

    def test_boot_is_read_only(self, disk: BootDisk) -> None:
        run("mount", "-o", "remount,ro", disk.root)
        try:
            report = disk.arming.explain(ExplainRequest(roots=["/mnt/data"]))
            assert any("is mounted read-only" in one for one in report.refusals)
        finally:
            run("mount", "-o", "remount,rw", disk.root)

    def test_another_boot_sector(self, disk: BootDisk) -> None:
        with Path(disk.device).open("r+b", buffering=0) as file:
            sector = file.read(512)
            file.seek(0)
            file.write(bytes(440) + sector[440:])
            os.fsync(file.fileno())
            try:
                refused(disk, "The boot sector of /dev/loop[0-9]+ is not GRUB's")
            finally:
                file.seek(0)
                file.write(sector)
                os.fsync(file.fileno())


class TestTheImage:
    def described(self, disk: BootDisk, **changes: object) -> dict[str, Any]:
        path = disk.descriptor.with_name("other.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(DESCRIPTOR | changes))
        return {
            "descriptor_path": f"{STATE}/other.json",
            "descriptor_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }

    def test_another_descriptor_than_agreed(self, disk: BootDisk) -> None:
        refused(disk, "has another SHA-256 than 0{64}", descriptor_sha256="0" * 64)

    def test_one_that_is_none(self, disk: BootDisk) -> None:
        refused(disk, "is no descriptor of an image", **self.described(disk, version=2))
        refused(disk, "size_bytes", **self.described(disk, size_bytes=None))

    def test_too_large_for_the_disk(self, disk: BootDisk) -> None:
        refused(disk, "bytes, and the image", **self.described(disk, size_bytes=1 << 40))

    def test_for_another_firmware(self, disk: BootDisk) -> None:
        refused(disk, "boots in mode bios", **self.described(disk, boot_modes=["uefi"]))

    def test_a_module_that_is_not_there(self, disk: BootDisk) -> None:
        table = {"partitions": [{"number": 1, "file_system": "zzfs"}]}
        changes = self.described(disk, partition_table=table)
        refused(disk, "kernel module zzfs of .* cannot be found", **changes)

    def test_status_files_that_are_something_else(self, disk: BootDisk) -> None:
        (disk.root / "etc/shadow").write_text("root:x")
        (disk.root / "etc/tls.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        boot = disk.allowing(files=frozenset({"/etc/shadow", "/etc/tls.pem"}))
        pair = {"certificate": "/etc/tls.pem", "key": "/etc/tls.pem"}
        for name in ("certificate", "key", "tokens"):
            status = {"listen": "127.0.0.1:9918", **pair, name: "/etc/shadow"}
            refused(disk, "/etc/shadow is not the file", boot, status=status)


def test_partitions_that_belong_to_something_are_not_written_over(disk_dir: Path) -> None:
    with boot_disk(disk_dir, "ext4", separate=True) as disk:
        # A partition beside the root's: unmounted, and made a member of an array.
        run("umount", disk.boot)
        subprocess.run(["wipefs", "-qa", f"{disk.device}p2"], check=True)
        with Path(f"{disk.device}p2").open("r+b") as file:
            file.seek(4096)
            file.write(0xA92B4EFC.to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(248))
            file.flush()
            os.fsync(file.fileno())
        report = disk.arming.explain(ExplainRequest(roots=["/mnt/data"]))
        assert any("belongs to an md array" in one for one in report.refusals)
        run("mkfs.ext2", "-q", "-F", f"{disk.device}p2")
        run("mount", f"{disk.device}p2", disk.boot)
