"""A lifeboat for UEFI: what firmware finds by one sector, and which loader of the node it gets."""

from __future__ import annotations

import os
import shutil
import struct
import uuid
from pathlib import Path

import pytest

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk.gpt import ESP, GptPartition
from holdfast.privileged.boot.lifeboat import efi_loader, region, uefi
from holdfast.privileged.boot.lifeboat.efi_entries import paths_to
from holdfast.privileged.boot.lifeboat.efi_loader import EfiLoader
from holdfast.privileged.boot.lifeboat.parts import LifeboatError, Parts, Region
from holdfast.privileged.boot.loaders.boot_next import LoadOption, device_path
from holdfast.privileged.boot.loaders.efi_variables import GLOBAL
from tests.oracles.powerloss.sectors import Contents, Reader
from tests.oracles.powerloss.uefi import Uefi
from tests.support.disks import gpt

MIB = 1 << 20
NONCE = "0123456789abcdef" * 2
REGION = Region(20 * MIB + 4096, 16 * MIB)
WORDS = ["console=ttyS0", "a.b=x y", "holdfast.lifeboat"]
PARTITION = GptPartition(15, ESP, "c0ffee00-1111-4222-8333-444455556666", 2048, 4096)
DISK_UUID = bytes(range(16))
PROTECTIVE = bytes(446) + b"\0\0\2\0\xee\xff\xff\xff\1\0\0\0\xff\xff\0\0" + bytes(48) + b"\x55\xaa"
HEADER = gpt.header(bytes(128 * 128), disk=DISK_UUID)
SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
SIGNED_GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
MODULES = Path("/usr/lib/grub/x86_64-efi/kernel.img")


def built(loader: EfiLoader, sector_bytes: int, **changes: bytes) -> Parts:
    old = uefi.OldDisk(
        changes.get("mbr", PROTECTIVE),
        changes.get("header", HEADER.ljust(sector_bytes, b"\0")),
        PARTITION,
        ["EFI/debian/shimx64.efi"],
    )
    kernel, initramfs = b"kernel" * 300_000, b"initramfs" * 300_000
    return uefi.build(
        REGION, kernel, initramfs, WORDS, old=old, loader=loader, sector_bytes=sector_bytes
    )


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_firmware_boots_it_by_one_sector_and_repairs_nothing(
    disk_dir: Path, sector_bytes: int
) -> None:
    loader = EfiLoader(
        "shim", b"MZ shim", beside={"grubx64.efi": b"MZ grub"}, directory="EFI/debian"
    )
    parts = built(loader, sector_bytes)
    assert parts.length_bytes <= uefi.length_bytes(4_500_000, loader, 1) <= 16 * MIB
    disk = disk_dir / "disk"
    disk.write_bytes(os.urandom(40 * MIB))
    file = os.open(disk, os.O_RDWR)
    try:
        region.write(disk, region.Sink(file, REGION.offset_bytes), REGION, parts, NONCE)
        os.pwrite(file, PROTECTIVE, 0)
        os.pwrite(file, parts.switch, parts.switch_lba * sector_bytes)
    finally:
        os.close(file)

    content = disk.read_bytes()
    contents = Contents()
    reader = Reader(contents, contents.numbers(content))
    paths = (r"\EFI\BOOT\BOOTX64.EFI", r"\EFI\DEBIAN\SHIMX64.EFI", r"\EFI\BOOT\GRUBX64.EFI")
    firmware = Uefi([r"\EFI\debian\grub.cfg"], paths, sector_bytes)
    assert firmware.repairs(reader) == {}
    found = firmware.load(reader)
    assert (found.kernel, found.initramfs) == (b"kernel" * 300_000, b"initramfs" * 300_000)
    assert list(found.words) == WORDS
    # The disk is still itself, and its partition the one that the firmware's entry names.
    header = content[sector_bytes : 2 * sector_bytes]
    assert header[56:72] == DISK_UUID
    (table,) = struct.unpack_from("<Q", header, 72)
    entry = content[table * sector_bytes + 14 * 128 :][:128]
    assert entry[16:32].hex() == uuid.UUID(PARTITION.uuid).bytes_le.hex()


@pytest.mark.parametrize(
    "changes",
    [
        {"header": bytes(512)},
        {"mbr": bytes(512)},
        {"mbr": PROTECTIVE[:462] + b"\x80" * 16 + PROTECTIVE[478:]},
    ],
    ids=["no GPT", "no protective MBR", "a hybrid MBR"],
)
def test_a_disk_without_a_sector_that_decides_is_refused(changes: dict[str, bytes]) -> None:
    with pytest.raises(LifeboatError, match="no one sector"):
        built(EfiLoader("grub", b"MZ", directory="EFI/debian"), 512, **changes)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (HEADER[:60] + b"x" + HEADER[61:], "the checksum of its header is wrong"),
        (HEADER[:12] + bytes(4) + HEADER[16:], "its header has an impossible size"),
        (gpt.header(bytes(128), own=2), "its header is of another place of the disk"),
    ],
)
def test_a_disk_whose_table_is_damaged_is_refused(header: bytes, why: str) -> None:
    with pytest.raises(LifeboatError, match=f"^The disk's partition table .* understood: {why}.$"):
        built(EfiLoader("grub", b"MZ", directory="EFI/debian"), 512, header=header)


def choose(esp: Path, *, secure_boot: bool, modules: bool = False) -> EfiLoader:
    directories = [str(MODULES.parent)] if modules else []
    return efi_loader.choose(esp, secure_boot=secure_boot, directories=directories)


@pytest.mark.skipif(not MODULES.exists(), reason="grub-efi-amd64-bin is not installed")
def test_grub_is_made_from_the_nodes_modules(tmp_path: Path) -> None:
    loader = choose(tmp_path, secure_boot=False, modules=True)
    program = loader.program("/a", "/b", WORDS)
    assert program.startswith(b"MZ")
    assert len(program) <= loader.most_bytes
    assert b"linux /a console=ttyS0 'a.b=x y' holdfast.lifeboat\ninitrd /b\nboot\n" in program
    assert loader.files("/a", "/b", WORDS) == {}


@pytest.mark.skipif(
    not (SHIM.exists() and SIGNED_GRUB.exists()), reason="shim and the signed GRUB are missing"
)
def test_with_secure_boot_it_is_the_signed_grub_behind_shim(tmp_path: Path) -> None:
    directory = tmp_path / "EFI/debian"
    directory.mkdir(parents=True)
    shutil.copy(SIGNED_GRUB, directory / "grubx64.efi")
    with pytest.raises(LifeboatError, match="With Secure Boot a lifeboat needs shim"):
        choose(tmp_path, secure_boot=True, modules=True)
    shutil.copy(SHIM, directory / "shimx64.efi")
    loader = choose(tmp_path, secure_boot=True, modules=True)
    assert (loader.name, loader.program("/k", "/i", WORDS)) == ("shim", SHIM.read_bytes())
    assert loader.beside["grubx64.efi"] == SIGNED_GRUB.read_bytes()
    (path,) = loader.files("/k", "/i", WORDS)
    assert path == "EFI/debian/grub.cfg"


@pytest.mark.skipif(not SYSTEMD_BOOT.exists(), reason="systemd-boot is not installed")
def test_without_grub_it_is_systemd_boot(tmp_path: Path) -> None:
    with pytest.raises(LifeboatError, match="grub-efi-amd64-bin"):
        choose(tmp_path, secure_boot=False)
    (tmp_path / "EFI/BOOT").mkdir(parents=True)
    shutil.copy(SYSTEMD_BOOT, tmp_path / "EFI/BOOT/BOOTX64.EFI")
    loader = choose(tmp_path, secure_boot=False)
    assert loader.name == "systemd-boot"
    entry = loader.files("/k", "/i", WORDS)["loader/entries/holdfast.conf"].decode()
    assert 'options console=ttyS0 "a.b=x y" holdfast.lifeboat\n' in entry


def test_it_lies_at_each_path_of_the_firmwares_menu(tmp_path: Path) -> None:
    where = tmp_path / "firmware/efi/efivars"
    where.mkdir(parents=True)
    other = GptPartition(1, ESP, "aaaaaaaa-1111-4222-8333-444455556666", 1, 2)
    entries = {
        3: device_path(PARTITION, "\\EFI\\debian\\shimx64.efi"),
        1: device_path(other, "\\EFI\\other\\x.efi"),
        4: device_path(PARTITION, "\\EFI\\DEBIAN\\SHIMX64.EFI"),
        5: b"\x04\x04\x03\x00",  # cut off
        7: device_path(PARTITION, "\\EFI\\fedora\\grubx64.efi"),
    }
    for number, path in entries.items():
        content = b"\7\0\0\0" + LoadOption(f"entry {number}", path, "").encoded()
        (where / f"Boot{number:04X}-{GLOBAL}").write_bytes(content)
    order = struct.pack("<6H", 3, 1, 4, 5, 6, 7)
    (where / f"BootOrder-{GLOBAL}").write_bytes(b"\7\0\0\0" + order)
    found = paths_to(MachineFiles(sys=tmp_path), PARTITION)
    assert found == ["EFI/debian/shimx64.efi", "EFI/fedora/grubx64.efi"]
