"""A small re-imaging that writes to a recorded disk, in the right order or in a wrong one."""

from __future__ import annotations

import random
import struct
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.oracles.powerloss.bios import Bios
from tests.oracles.powerloss.loaded import Firmware
from tests.oracles.powerloss.sectors import SECTOR, Contents, Extent
from tests.oracles.powerloss.states import Epoch, Report, check, epochs, replayed
from tests.oracles.powerloss.uefi import REMOVABLE, Uefi
from tests.oracles.powerloss.verdict import Lifeboat, Scene
from tests.support.disks import gpt, grub

KIB, MIB = 1 << 10, 1 << 20
DISK_BYTES = 12 * MIB
IMAGE_BYTES = 6 * MIB
REGION = 6 * MIB
_PARTS = REGION + 128 * KIB
REGION_BYTES = 4 * MIB
RECORD = 2 * MIB
"""Of the old system: where its outcome record is."""
WORD = "holdfast.lifeboat"
KERNEL = random.Random(1).randbytes(24 * KIB + 100)
INITRAMFS = random.Random(2).randbytes(60 * KIB + 7)
_ESP_BYTES = 2 * MIB
_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
_LOG_MAGIC = 0x6A736677736872


class RecordedDisk:
    """A disk whose writes are logged as dm-log-writes does."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self._entries = 0
        self._log = bytearray()

    def write(self, offset: int, content: bytes) -> None:
        """Write whole sectors."""
        assert offset % SECTOR == 0, offset
        content = _whole_sectors(content)
        self._entry(offset // SECTOR, len(content) // SECTOR, 0)
        self._log += content
        self.content[offset : offset + len(content)] = content

    def flush(self) -> None:
        """Flush what was written."""
        self._entry(0, 0, 1)

    def save(self, path: Path) -> Path:
        """Write the log."""
        start = struct.pack("<QQQI", _LOG_MAGIC, 1, self._entries, SECTOR)
        path.write_bytes(start.ljust(SECTOR, b"\0") + self._log)
        return path

    def _entry(self, sector: int, sectors: int, flags: int) -> None:
        self._log += struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(SECTOR, b"\0")
        self._entries += 1


def _whole_sectors(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")


@dataclass(frozen=True)
class Boat:
    """A lifeboat: what its region has, and the sector that leads there."""

    switch_lba: int
    switch: bytes
    parts: Mapping[int, bytes]
    """By their offsets on the disk."""
    firmware: Firmware


def bios_boat(old: bytes) -> Boat:
    """Make a lifeboat of GRUB's own parts."""
    kernel_at, initramfs_at, core_at = _PARTS, _PARTS + 64 * KIB, _PARTS + 256 * KIB
    core = grub.core_image(
        f"linux {grub.blocks(kernel_at, KERNEL)} quiet {WORD}\n"
        f"initrd {grub.blocks(initramfs_at, INITRAMFS)}\nboot\n",
        core_at,
    )
    parts = {kernel_at: KERNEL, initramfs_at: INITRAMFS, core_at: core}
    return Boat(0, grub.boot_sector(core_at, old), parts, Bios())


def uefi_boat(directory: Path, old: bytes, *, with_backup: bool = True) -> Boat:
    """Make a lifeboat with a system partition and a table."""
    image = directory / "esp.img"
    with image.open("wb") as file:
        file.truncate(_ESP_BYTES)
    subprocess.run(("mkfs.vfat", "-F", "12", image), check=True, stdout=subprocess.DEVNULL)
    files = {
        "EFI/BOOT/BOOTX64.EFI": b"MZ" + bytes(3000),
        "EFI/BOOT/grub.cfg": f"linux /vmlinuz {WORD}\ninitrd /initrd\nboot\n".encode(),
        "vmlinuz": KERNEL,
        "initrd": INITRAMFS,
    }
    subprocess.run(("mmd", "-i", image, "::/EFI", "::/EFI/BOOT"), check=True)
    for path, content in files.items():
        source = directory / "file"
        source.write_bytes(content)
        subprocess.run(("mcopy", "-i", image, source, f"::/{path}"), check=True)
    esp_at = _PARTS + 256 * KIB
    entries = _entry(_ESP, esp_at, _ESP_BYTES)
    table_at, backup_at = _PARTS, _PARTS + 64 * KIB
    # Firmware that finds no backup writes one: here into the initramfs.
    content = image.read_bytes()
    inside = esp_at + content.index(INITRAMFS[:SECTOR])
    alternate = backup_at + 32 * SECTOR if with_backup else inside
    usable = (esp_at, esp_at + _ESP_BYTES)
    primary = _header(1, alternate // SECTOR, table_at // SECTOR, usable, entries)
    backup = _header(alternate // SECTOR, 1, backup_at // SECTOR, usable, entries)
    parts = {table_at: entries, esp_at: content}
    if with_backup:
        parts |= {backup_at: entries, alternate: backup}
    return Boat(1, primary, parts, Uefi([r"\EFI\BOOT\grub.cfg"], (REMOVABLE,)))


def gpt_disk(seed: int, size: int) -> bytes:
    """Return a disk of noise with a GPT for one of DISK_BYTES; the backup is at its end."""
    disk = bytearray(random.Random(seed).randbytes(size))
    disk[: 64 * KIB] = bytes(64 * KIB)
    disk[:512] = _protective_mbr()
    entries = _entry(_ESP, MIB, MIB) + _entry(_DATA, 2 * MIB, 3 * MIB)
    entries = entries[:128] + entries[-(len(entries) // 2) :][:128]
    entries = entries.ljust(128 * 128, b"\0")
    last = DISK_BYTES // SECTOR - 1
    usable = (34 * SECTOR, (last - 32) * SECTOR)
    disk[512:1024] = _header(1, last, 2, usable, entries)
    disk[1024 : 1024 + len(entries)] = entries
    return bytes(disk)


def backup_of(disk: bytes) -> tuple[bytes, bytes]:
    """Return the backup's entries and header of a disk that `gpt_disk` made."""
    last = DISK_BYTES // SECTOR - 1
    entries = disk[1024 : 1024 + 128 * 128]
    usable = (34 * SECTOR, (last - 32) * SECTOR)
    return entries, _header(last, 1, last - 32, usable, entries)


def _protective_mbr() -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, 0xFFFFFFFF)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _entry(kind: bytes, offset: int, length: int) -> bytes:
    begin, last = offset // SECTOR, (offset + length) // SECTOR - 1
    own = uuid.UUID(int=begin).bytes_le
    return struct.pack("<16s16sQQQ72s", kind, own, begin, last, 0, b"").ljust(128 * 128, b"\0")


def _header(
    own: int, alternate: int, entries_at: int, usable: tuple[int, int], entries: bytes
) -> bytes:
    first, last = usable[0] // SECTOR, usable[1] // SECTOR - 1
    made = gpt.header(entries, own=own, other=alternate, table=entries_at, usable=(first, last))
    return made.ljust(SECTOR, b"\0")


Step = Callable[[], None]


class Reimaging:
    """The steps of a re-imaging; a fault is an order of them that is not the right one."""

    def __init__(self, old: bytes, image: bytes, tail: bytes, boat: Boat) -> None:
        self.old, self.image, self.boat = old, image, boat
        self._tail = tail
        before = bytearray(old)
        for offset, content in boat.parts.items():
            sectors = _whole_sectors(content)
            before[offset : offset + len(sectors)] = sectors
        self.before = bytes(before)
        self.disk = RecordedDisk(self.before)

    @property
    def switch_at(self) -> int:
        """Where the switch sector is."""
        return self.boat.switch_lba * SECTOR

    def without_lifeboat(self) -> None:
        """Let the lifeboat not be there yet."""
        self.disk = RecordedDisk(self.old)
        self.before = self.old

    def lifeboat(self) -> None:
        """Write the lifeboat."""
        for offset, content in self.boat.parts.items():
            self.disk.write(offset, content)

    def record(self) -> None:
        """Write the outcome record."""
        self.disk.write(RECORD, b"started".ljust(4 * KIB))

    def flush(self) -> None:
        """Flush."""
        self.disk.flush()

    def switch_1(self) -> None:
        """Let the lifeboat be what boots."""
        self.disk.write(self.switch_at, self.boat.switch)

    def clear_head(self) -> None:
        """Clear the first mebibyte, without the switch sector."""
        if self.switch_at:
            self.disk.write(0, self.image[: self.switch_at])
        after = self.switch_at + SECTOR
        self.disk.write(after, bytes(MIB - after))

    def clear_all_of_the_head(self) -> None:
        """Clear the first mebibyte."""
        self.disk.write(0, bytes(MIB))

    def clear_backup(self) -> None:
        """Clear the last sector."""
        self.disk.write(DISK_BYTES - SECTOR, bytes(SECTOR))

    def data(self) -> None:
        """Write the image but for its first mebibyte, in chunks out of order."""
        for at in (3, 1, 5, 2, 4):
            self.disk.write(at * MIB, self.image[at * MIB : (at + 1) * MIB])

    def into_the_region(self) -> None:
        """Write where the lifeboat is."""
        self.disk.write(max(self.boat.parts) & ~4095, bytes(4096))

    def head(self) -> None:
        """Write the first mebibyte, without the switch sector, and the end of the disk."""
        if self._tail:
            self.disk.write(DISK_BYTES - len(self._tail), self._tail)
        after = self.switch_at + SECTOR
        self.disk.write(after, self.image[after:MIB])

    def switch_2(self) -> None:
        """Let the new system be what boots."""
        self.disk.write(self.switch_at, self.image[self.switch_at :][:SECTOR])

    def all_of_the_head(self) -> None:
        """Write the first mebibyte at once."""
        self.disk.write(0, self.image[:MIB])

    def wipe(self) -> None:
        """Clear the region."""
        self.disk.write(REGION, bytes(REGION_BYTES))

    def right_order(self) -> list[Step]:
        """Return the steps as they are to be."""
        return [
            self.record, self.flush,
            self.switch_1, self.flush,
            self.clear_head, self.clear_backup, self.flush,
            self.data, self.flush,
            self.head, self.flush,
            self.switch_2, self.flush,
            self.wipe, self.flush,
        ]  # fmt: skip

    def judged(self, steps: Sequence[Step], directory: Path, states: int) -> Report:
        """Take the steps, and say what their states boot."""
        for step in steps:
            step()
        contents = Contents()
        log: Sequence[Epoch] = epochs(self.disk.save(directory / "log"), contents)
        before = contents.numbers(self.before)
        region = Extent.of_bytes(REGION, REGION_BYTES)
        scene = Scene(
            firmware=self.boat.firmware,
            before=before,
            final=replayed(before, log),
            owned=(Extent.of_bytes(RECORD, 4 * KIB), region),
            spare=(region,),
            lifeboat=Lifeboat(KERNEL, INITRAMFS, WORD),
        )
        return check(scene, log, contents, states=states)
