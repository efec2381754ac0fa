"""Small systems that firmware boots: a kernel in raw sectors, and a root for the imager to fill."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.privileged.boot.payload.job import blank_outcome
from tests.support.disks import grub
from tests.vm.cuts.program import initramfs
from tests.vm.imager.images import MIB, NONCE, Image, describe
from tests.vm.pace import TIMER

Layout = Literal["bios-mbr", "bios-gpt", "uefi-gpt"]

BOOT_AT, BOOT_BYTES = MIB, 19 * MIB
"""What firmware and loader read: with UEFI a system partition."""
ROOT_AT = 20 * MIB
ROOT_MIB = 10
IMAGE_BYTES = 31 * MIB
"""With a GPT its last mebibyte is the backup's."""
REGION_AT, REGION_BYTES = 32 * MIB, 38 * MIB
DISK_BYTES = 72 * MIB
COMMAND_LINE = f"console=ttyS0 quiet panic=1 {TIMER}"
_SECTOR = 512
_CORE_AT = {"bios-mbr": _SECTOR, "bios-gpt": 64 * _SECTOR}
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_TABLES = {
    "bios-mbr": "label: dos\nlabel-id: {id}\n"
    "start=1MiB, size=19MiB, type=da\nstart=20MiB, size=10MiB, type=83\n",
    "bios-gpt": "label: gpt\nlabel-id: {id}\nfirst-lba: 34\n"
    "start=64, size=1984, type=21686148-6449-6E6F-744E-656564454649\n"
    "start=1MiB, size=19MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
    f"start=20MiB, size=10MiB, type={_ROOT_TYPE}\n",
    "uefi-gpt": "label: gpt\nlabel-id: {id}\n"
    f"start=1MiB, size=19MiB, type=uefi\nstart=20MiB, size=10MiB, type={_ROOT_TYPE}\n",
}
_IDS = {
    "old": "11111111-1111-4111-8111-111111111111",
    "new": "22222222-2222-4222-8222-222222222222",
}
_EFI_MODULES = "part_gpt fat linux normal search search_fs_file"


@dataclass(frozen=True)
class System:
    """A system on a disk."""

    layout: Layout
    name: Literal["old", "new"]

    @property
    def message(self) -> str:
        """What it prints once it is booted."""
        return f"the {self.name} system is up"

    def write(self, path: Path, size: int, kernel: bytes) -> Path:
        """Make its disk."""
        with path.open("wb") as file:
            file.truncate(size)
        identifier = _IDS[self.name] if "gpt" in self.layout else f"0x{_IDS[self.name][:8]}"
        script = _TABLES[self.layout].format(id=identifier)
        subprocess.run(("sfdisk", "--quiet", path), input=script, text=True, check=True)
        own = initramfs(self.message)
        with path.open("r+b") as disk:
            parts = {ROOT_AT: self._root(path.with_suffix(".root"))}
            if self.layout == "uefi-gpt":
                parts[BOOT_AT] = _system_partition(path.with_suffix(".esp"), kernel, own)
            else:
                parts |= self._raw(disk.read(_SECTOR), kernel, own)
            for at, content in parts.items():
                disk.seek(at)
                disk.write(content)
        return path

    def _raw(self, table: bytes, kernel: bytes, own: bytes) -> dict[int, bytes]:
        archive_at = BOOT_AT + -(-len(kernel) // MIB) * MIB
        assert archive_at + len(own) <= BOOT_AT + BOOT_BYTES, "the kernel is too large"
        core_at = _CORE_AT[self.layout]
        core = grub.core_image(
            f"linux {grub.blocks(BOOT_AT, kernel)} {COMMAND_LINE}\n"
            f"initrd {grub.blocks(archive_at, own)}\nboot\n",
            core_at,
        )
        assert core_at + len(core) <= BOOT_AT
        boot = grub.boot_sector(core_at, table)
        return {0: boot, core_at: core, BOOT_AT: kernel, archive_at: own}

    def _root(self, path: Path) -> bytes:
        tree = path.with_suffix(".tree")
        (tree / "etc").mkdir(parents=True)
        (tree / "sbin").mkdir()
        (tree / "etc/os-release").write_text(f"ID={self.name}\n")
        (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (tree / "etc/group").write_text("root:x:0:\n")
        (tree / "sbin/init").write_bytes(b"none")
        (tree / "boot/holdfast").mkdir(parents=True)
        if self.name == "old":
            (tree / "boot/holdfast/outcome").write_bytes(blank_outcome(NONCE))
        with path.open("wb") as file:
            file.truncate(ROOT_MIB * MIB)
        subprocess.run(("mkfs.ext4", "-q", "-F", "-d", tree, path), check=True)
        return path.read_bytes()


def _system_partition(path: Path, kernel: bytes, own: bytes) -> bytes:
    """Return a system partition with GRUB, the kernel and its initramfs."""
    tree = path.with_suffix(".esp-tree")
    tree.mkdir()
    config = tree / "grub.cfg"
    lines = ("search --file --set=root /own-vmlinuz", f"linux /own-vmlinuz {COMMAND_LINE}")
    config.write_text("\n".join((*lines, "initrd /own-initrd", "boot\n")))
    loader = tree / "BOOTX64.EFI"
    command = ["grub-mkstandalone", "--format=x86_64-efi", f"--output={loader}", "--locales="]
    command += ["--fonts=", "--themes=", f"--install-modules={_EFI_MODULES}"]
    command += [f"--modules={_EFI_MODULES}", f"boot/grub/grub.cfg={config}"]
    subprocess.run(command, check=True)
    (tree / "vmlinuz").write_bytes(kernel)
    (tree / "initrd").write_bytes(own)
    with path.open("wb") as file:
        file.truncate(BOOT_BYTES)
    subprocess.run(("mkfs.vfat", "-F", "16", path), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(("mmd", "-i", path, "::/EFI", "::/EFI/BOOT"), check=True)
    places = {
        "BOOTX64.EFI": "EFI/BOOT/BOOTX64.EFI",
        "vmlinuz": "own-vmlinuz",
        "initrd": "own-initrd",
    }
    for name, place in places.items():
        subprocess.run(("mcopy", "-i", path, tree / name, f"::/{place}"), check=True)
    return path.read_bytes()


def image_of(system: System, directory: Path, kernel: bytes) -> Image:
    """Make the image of a system, packed and described."""
    raw = system.write(directory / "image.raw", IMAGE_BYTES, kernel)
    packed = raw.with_name("image.raw.zst")
    subprocess.run(("zstd", "-q", "-f", raw, "-o", packed), check=True)
    return describe(packed, raw)
