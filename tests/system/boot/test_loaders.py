"""Other boot loaders than GRUB on a BIOS, and GRUB as other distributions set it up."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.node.storage.disks import position_of
from holdfast.privileged.boot.disk.gpt import ESP, GptPartition
from holdfast.privileged.boot.disk.storage import Storage
from holdfast.privileged.boot.loaders.efi_variables import GLOBAL, LOADER, efi_text
from holdfast.privileged.boot.loaders.esp import Esp
from holdfast.privileged.boot.loaders.loader import Armed
from holdfast.privileged.boot.loaders.systemd_boot import SystemdBoot
from holdfast.privileged.boot.models import BootReport, ExplainRequest
from holdfast.privileged.writes import Refused
from tests.support.disks.bootdisk import (
    DESCRIPTOR,
    KERNEL,
    NONCE,
    BootDisk,
    boot_disk,
    run,
    ubuntu_config,
)

pytestmark = pytest.mark.slow

_SECURE_BOOT = f"SecureBoot_{GLOBAL}".replace("-", "_")
_LOADER_INFO = f"LoaderInfo_{LOADER}".replace("-", "_")
_FOR_UEFI = DESCRIPTOR | {"boot_modes": ["uefi"]}


def for_uefi(disk: BootDisk) -> BootDisk:
    """Have the image that is staged be one that UEFI can boot."""
    disk.descriptor.parent.mkdir(parents=True, exist_ok=True)
    disk.descriptor.write_text(json.dumps(_FOR_UEFI))
    return disk


def explained(disk: BootDisk, **more: object) -> BootReport:
    return disk.arming.explain(ExplainRequest.model_validate({"roots": ["/mnt/data"]} | more))


def kernel(disk: BootDisk, *, signed: bool) -> None:
    """Give the kernel the head of a program for EFI, as a distribution's has."""
    path = disk.boot / f"vmlinuz-{KERNEL}"
    content = bytearray(path.read_bytes())
    content[:0x200] = bytes(0x200)
    content[:2], content[0x3C], content[0x80:0x84] = b"MZ", 0x80, b"PE\0\0"
    struct.pack_into("<H", content, 0x98, 0x20B)
    struct.pack_into("<I", content, 0x98 + 108, 16)
    struct.pack_into("<II", content, 0x98 + 112 + 32, 4096, 2048 if signed else 0)
    path.write_bytes(content)


# What counts of grub.cfg as `grub2-mkconfig` writes it there, in this order, from
# util/grub.d/00_header.in, 10_linux.in, 10_reset_boot_success.in and 41_custom.in of
# https://github.com/rhboot/grub2.
_BLS_CONFIG = """\
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
insmod blscfg
blscfg
set boot_success=0
save_env boot_success boot_indeterminate
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
# As kernel-install writes it on Amazon Linux 2023, where / and /boot are one file system.
_BLS_ENTRY = """\
title Amazon Linux ({kernel}) 2023
version {kernel}
linux /boot/vmlinuz-{kernel}
initrd /boot/initramfs-{kernel}.img
options root=UUID=0 ro console=tty0 console=ttyS0,115200n8
grub_users $grub_users
grub_arg --unrestricted
grub_class amzn
"""


def with_entries_of_its_own(disk: BootDisk) -> str:
    """Set GRUB up as Fedora, RHEL and Amazon Linux 2023 do; return the name of the entry."""
    grub2 = disk.boot / "grub2"
    disk.grub.rename(grub2)
    (grub2 / "grub.cfg").chmod(0o644)
    (grub2 / "grub.cfg").write_text(_BLS_CONFIG)
    entries = disk.boot / "loader/entries"
    entries.mkdir(parents=True)
    name = f"0123456789abcdef0123456789abcdef-{KERNEL}"
    (entries / f"{name}.conf").write_text(_BLS_ENTRY.format(kernel=KERNEL))
    run("grub-editenv", grub2 / "grubenv", "set", f"saved_entry={name}", "boot_success=1")
    return name


@pytest.fixture
def disk(disk_dir: Path) -> Iterator[BootDisk]:
    with boot_disk(disk_dir) as found:
        yield found


class TestGrubOnUefi:
    def test_it_is_armed_and_undone_byte_for_byte(self, disk: BootDisk) -> None:
        disk = for_uefi(disk.with_firmware())
        before = disk.state()
        report = disk.arming.arm(disk.request())
        assert (report.loader, report.seen_by_grub) == ("grub2-uefi", True)
        assert "next_entry=holdfast-imager" in run("grub-editenv", disk.grub / "grubenv", "list")
        found = disk.arming.outcome()
        assert (found.armed, found.entry) == (True, True)
        disk.arming.disarm()
        assert disk.state() == before

    def test_the_boot_sector_is_nothing_to_it(self, disk: BootDisk) -> None:
        with Path(disk.device).open("r+b", buffering=0) as file:
            sector = file.read(512)
            file.seek(0)
            file.write(bytes(440) + sector[440:])
            os.fsync(file.fileno())
        assert any("boot sector" in one for one in explained(disk).refusals)
        assert not any("boot sector" in one for one in explained(disk.with_firmware()).refusals)

    def test_not_if_something_else_booted_the_machine(self, disk: BootDisk) -> None:
        disk = disk.with_firmware()
        (disk.machine.proc / "cmdline").write_text("root=UUID=0 ro\n")
        assert any("was not booted by GRUB" in one for one in explained(disk).refusals)

    def test_secure_boot_needs_a_signed_kernel(self, disk: BootDisk) -> None:
        disk = for_uefi(disk.with_firmware(**{_SECURE_BOOT: b"\1"}))
        sentence = "Secure Boot is on, and the kernel that runs the imager.* has no signature"
        with pytest.raises(Refused, match=sentence):
            disk.arming.arm(disk.request())
        kernel(disk, signed=False)
        with pytest.raises(Refused, match=sentence):
            disk.arming.arm(disk.request())
        kernel(disk, signed=True)
        report = disk.arming.arm(disk.request())
        # What shim checks is the kernel, so it has to be the same.
        copy = (disk.boot / "holdfast/vmlinuz").read_bytes()
        assert copy == (disk.boot / f"vmlinuz-{KERNEL}").read_bytes()
        assert report.loader == "grub2-uefi"

    def test_images_of_the_other_mode(self, disk: BootDisk) -> None:
        wrong = explained(disk, boot_modes=["uefi"]).refusals
        assert "This machine boots in mode bios, and the image in uefi." in wrong
        disk = disk.with_firmware()
        wrong = explained(disk, boot_modes=["bios"]).refusals
        assert "This machine boots in mode uefi, and the image in bios." in wrong
        assert explained(disk, boot_modes=["bios", "uefi"]).refusals == []
        wrong = explained(disk, boot_modes=[]).refusals
        assert "This machine boots in mode uefi, and the image in no mode at all." in wrong

    def test_where_it_cannot_write_the_firmware_has_to_choose(self, disk_dir: Path) -> None:
        with boot_disk(disk_dir, "btrfs") as disk:
            order = struct.pack("<H", 1)
            mine = disk.with_firmware(**{f"BootOrder_{GLOBAL}".replace("-", "_"): order})
            report = explained(mine)
            assert report.loader is None
            reported = " ".join(report.refusals)
            assert "/boot/grub is on btrfs, where GRUB cannot clear" in reported
            assert "No EFI system partition on the disk of the root is mounted" in reported
            assert "There is no GRUB 2" not in reported
            with pytest.raises(Refused, match="is on btrfs"):
                mine.arming.arm(mine.request())


class TestGrubOfOtherDistributions:
    def test_ubuntus_does_not_stop_at_the_menu_after_a_failed_boot(self, disk: BootDisk) -> None:
        config = ubuntu_config()
        assert "recordfail" in config
        assert "set timeout=-1" in config
        (disk.grub / "grub.cfg").chmod(0o644)
        (disk.grub / "grub.cfg").write_text(config)
        run("grub-editenv", disk.grub / "grubenv", "set", "recordfail=1")
        before = disk.state()
        report = disk.arming.arm(disk.request())
        # custom.cfg comes after the header, and its timeout counts.
        assert config.index("set timeout=-1") < config.index("custom.cfg")
        assert "  set timeout=3\n" in report.entry
        assert 'if [ "${default}" = "holdfast-imager" ]' in report.entry
        assert "recordfail=1" in run("grub-editenv", disk.grub / "grubenv", "list")
        disk.arming.disarm()
        assert disk.state() == before

    @pytest.mark.parametrize("firmware", ["bios", "uefi"])
    def test_one_with_entries_of_the_boot_loader_specification(
        self, disk: BootDisk, firmware: str
    ) -> None:
        """Fedora, RHEL and Amazon Linux 2023: /boot/grub2, `blscfg`, and `saved_entry`."""
        name = with_entries_of_its_own(disk)
        grub2, entries = disk.boot / "grub2", disk.boot / "loader/entries"
        if firmware == "uefi":
            disk = for_uefi(disk.with_firmware())
        before = disk.state()
        report = disk.arming.arm(disk.request())
        assert report.loader == f"grub2-{firmware}"
        assert report.seen_by_grub
        assert "/boot/grub2/custom.cfg" in [one.path for one in report.files]
        run("grub-script-check", grub2 / "custom.cfg")
        listed = run("grub-editenv", grub2 / "grubenv", "list").splitlines()
        assert listed == [f"saved_entry={name}", "boot_success=1", "next_entry=holdfast-imager"]
        # Its GRUB would wait in the menu for ever after what cannot be loaded.
        assert report.entry.index("\n      boot\n") < report.entry.index("\n  reboot\n}\n")
        # Nothing among the entries that the menu is made of: the imager's is never the newest.
        assert list(entries.iterdir()) == [entries / f"{name}.conf"]
        undone = disk.arming.disarm()
        assert sorted(undone.restored) == ["/boot/grub2/custom.cfg", "/boot/grub2/grubenv"]
        assert disk.state() == before

    def test_fedoras_notes_on_boots_stay_when_it_is_undone(self, disk: BootDisk) -> None:
        """Its GRUB notes at each boot that it has not succeeded yet; a session marks success."""
        name = with_entries_of_its_own(disk)
        environment = disk.boot / "grub2/grubenv"
        custom = disk.boot / "grub2/custom.cfg"
        disk.arming.arm(disk.request())
        # As its save_env leaves it: the imager was booted, and then the old system.
        run("grub-editenv", environment, "set", "next_entry=", "boot_success=0")
        run("grub-editenv", environment, "set", "boot_indeterminate=0")
        undone = disk.arming.disarm()
        assert (undone.restored, undone.edited) == (
            ["/boot/grub2/custom.cfg"],
            ["/boot/grub2/grubenv"],
        )
        assert not custom.exists()
        listed = run("grub-editenv", environment, "list").splitlines()
        assert listed == [f"saved_entry={name}", "boot_success=0", "boot_indeterminate=0"]
        again = disk.arming.disarm()
        assert (again.restored, again.edited, again.removed) == ([], [], [])

    def test_an_environment_on_the_system_partition(self, disk: BootDisk) -> None:
        """RHEL 8 on UEFI has a link to it."""
        environment = disk.grub / "grubenv"
        environment.rename(disk.root / "grubenv")
        environment.symlink_to("../efi/EFI/redhat/grubenv")
        assert any("is not a regular file" in one for one in explained(disk).refusals)

    def test_menu_lst_alone(self, disk: BootDisk) -> None:
        (disk.grub / "grub.cfg").unlink()
        (disk.grub / "menu.lst").write_text("default 0\n")
        report = explained(disk)
        assert report.loader is None
        assert any("boots by /boot/grub/menu.lst" in one for one in report.refusals)


class TestSystemdBoot:
    def test_it_needs_the_partition_that_it_was_started_from(self, disk: BootDisk) -> None:
        disk = disk.with_firmware(**{_LOADER_INFO: efi_text("systemd-boot 252.39")})
        report = explained(disk)
        assert report.loader == "systemd-boot"
        assert any("systemd-boot was started from is not mounted" in one for one in report.refusals)

    def test_grub_tells_of_itself_in_the_same_variable(self, disk: BootDisk) -> None:
        disk = disk.with_firmware(**{_LOADER_INFO: efi_text("GRUB 2.12")})
        assert explained(disk).loader == "grub2-uefi"


class TestSystemdBootsEntries:
    """Its partition stands on ext4 here, since few kernels of test machines can mount FAT."""

    @pytest.fixture(scope="class")
    @classmethod
    def esp(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BootDisk, Esp]]:
        with boot_disk(tmp_path_factory.mktemp("esp")) as disk:
            for path in ("loader/entries", "EFI/Linux"):
                (disk.root / "efi" / path).mkdir(parents=True)
            (disk.root / "efi").chmod(0o700)
            place = position_of(disk.machine, "/")
            assert not isinstance(place, str)
            partition = GptPartition(1, ESP, "0" * 8, 2048, 2048)
            yield disk, Esp("/efi", Storage(disk.machine, place), partition)

    @pytest.fixture
    def make(self, esp: tuple[BootDisk, Esp]) -> Callable[..., SystemdBoot]:
        disk, place = esp
        entries = disk.root / "efi/loader/entries"

        def loader(conf: str, *, key: str = "", info: str = "252.39", **more: bytes) -> SystemdBoot:
            (disk.root / "efi/loader/loader.conf").write_text(conf)
            for path in entries.iterdir():
                path.unlink()
            (entries / "some-6.1.conf").write_text(f"title Some\nlinux /linux\n{key}")
            variables = {"LoaderInfo": efi_text(f"systemd-boot {info}")} | more
            vendor = LOADER.replace("-", "_")
            mine = disk.with_firmware(**{f"{one}_{vendor}": it for one, it in variables.items()})
            return SystemdBoot(mine.machine, place)

        return loader

    @pytest.mark.parametrize(
        ("conf", "key", "info", "sentence"),
        [
            ("timeout 3\n", "sort-key some\n", "252.39", None),
            ("default some-6.1.conf\n", "", "249.11", None),
            ("timeout 3\n", "", "252.39", "may make it the imager's"),
            ("timeout 3\n", "sort-key some\n", "249.11", "may make it the imager's"),
            ("default @saved\n", "sort-key some\n", "252.39", "boot again what it booted last"),
            ("timeout menu-force\n", "sort-key a\n", "252.39", "wait in its menu for a person"),
        ],
    )
    def test_ours_is_never_the_default(
        self,
        make: Callable[..., SystemdBoot],
        *,
        conf: str,
        key: str,
        info: str,
        sentence: str | None,
    ) -> None:
        found = make(conf, key=key, info=info).examine()
        assert found.unknown == []
        assert len(found.refusals) == (0 if sentence is None else 1), found.refusals
        assert sentence is None or sentence in found.refusals[0]

    def test_somebody_elses_choice(self, make: Callable[..., SystemdBoot]) -> None:
        loader = make("", key="sort-key a\n", LoaderEntryOneShot=efi_text("memtest.conf"))
        assert any("has a next boot set already" in one for one in loader.examine().refusals)
        assert not loader.armed().next
        assert loader.disarm().removed == []

    def test_keys_are_not_put_where_everybody_reads(
        self, make: Callable[..., SystemdBoot], esp: tuple[BootDisk, Esp]
    ) -> None:
        where = esp[0].root / "efi"
        where.chmod(0o755)
        try:
            found = make("", key="sort-key a\n").examine()
        finally:
            where.chmod(0o700)
        assert any("umask=0077" in one for one in found.refusals)

    def test_armed_and_disarmed(
        self, make: Callable[..., SystemdBoot], esp: tuple[BootDisk, Esp]
    ) -> None:
        loader = make("", key="sort-key a\n")
        entries = esp[0].root / "efi/loader/entries"
        before = sorted(path.name for path in entries.iterdir())
        entry = loader.entry("abc", ["console=ttyS0", "a=b c", f"holdfast.nonce={NONCE}"])
        loader.arm(entry)
        assert (entries / "holdfast-imager.conf").read_text() == (
            "title holdfast: write image abc\n"
            "linux /holdfast/vmlinuz\n"
            "initrd /holdfast/initramfs.img\n"
            f'options console=ttyS0 "a=b c" holdfast.nonce={NONCE}\n'
        )
        assert loader.armed() == Armed(entry=entry, next=True)
        assert any("disarm first" in one for one in loader.examine().refusals)
        assert len(loader.disarm().removed) == 2
        assert sorted(path.name for path in entries.iterdir()) == before
        assert loader.armed() == Armed(entry=None, next=False)


class TestKexec:
    @pytest.fixture
    def without_grub(self, disk: BootDisk) -> BootDisk:
        shutil.rmtree(disk.grub)
        return disk

    def test_only_where_it_is_allowed(self, without_grub: BootDisk) -> None:
        assert explained(without_grub).loader is None
        with pytest.raises(Refused, match="There is no GRUB 2 here"):
            without_grub.arming.arm(without_grub.request())
        assert explained(without_grub, allow_kexec=True).loader == "kexec"

    def test_a_boot_loader_comes_first(self, disk: BootDisk) -> None:
        assert explained(disk, allow_kexec=True).loader == "grub2-bios"

    def test_nothing_but_the_payload_is_written(self, without_grub: BootDisk) -> None:
        disk, before = without_grub, without_grub.state()
        if any("kexec" in one for one in explained(disk, allow_kexec=True).refusals):
            pytest.skip("kexec or systemd-run is not installed")
        report = disk.allowing(allow_kexec=True).arm(disk.request())
        assert report.loader == "kexec"
        assert f"holdfast.nonce={NONCE}" in report.entry
        assert {one.path.rpartition("/")[0] for one in report.files} == {"/boot/holdfast"}
        assert disk.arming.outcome().armed
        with pytest.raises(Refused, match="not run by systemd"):
            disk.arming.reboot(NONCE)
        disk.arming.disarm()
        assert disk.state() == before
        assert not disk.arming.outcome().armed

    def test_it_does_not_outlive_the_boot(self, without_grub: BootDisk, tmp_path: Path) -> None:
        disk = without_grub
        if any("kexec" in one for one in explained(disk, allow_kexec=True).refusals):
            pytest.skip("kexec or systemd-run is not installed")
        disk.allowing(allow_kexec=True).arm(disk.request())
        proc = tmp_path / "proc"
        proc.mkdir()
        for entry in disk.machine.proc.iterdir():
            if entry.name != "sys":
                (proc / entry.name).symlink_to(entry)
        (proc / "sys/kernel/random").mkdir(parents=True)
        (proc / "sys/kernel/random/boot_id").write_text("another\n")
        later = replace(disk.arming, machine=replace(disk.machine, proc=proc))
        found = later.outcome()
        assert (found.armed, found.entry) == (False, True)
        assert found.record is not None
        with pytest.raises(Refused, match="arm it first"):
            later.reboot(NONCE)
        later.disarm()
        assert not (disk.boot / "holdfast").exists()

    def test_never_on_xen(self, without_grub: BootDisk) -> None:
        disk = without_grub.with_firmware()
        sys = disk.machine.sys
        for path in (sys / "firmware", sys / "hypervisor"):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        (sys / "hypervisor").mkdir()
        (sys / "hypervisor/type").write_text("xen\n")
        report = explained(disk, allow_kexec=True)
        assert report.loader is None
        assert any("runs on Xen" in one for one in report.refusals)
