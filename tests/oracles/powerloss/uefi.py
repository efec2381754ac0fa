"""A UEFI as EDK2 is one: protective MBR, GPT, system partition, and GRUB's files on that.

EDK2: MdeModulePkg/Universal/Disk/PartitionDxe/Gpt.c (`PartitionInstallGptChildHandles`,
`PartitionValidGptTable`, `PartitionCheckGptEntryArrayCRC`, `PartitionRestoreGptTable`).
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.oracles.powerloss import grub_config
from tests.oracles.powerloss.fat import Fat
from tests.oracles.powerloss.loaded import Loaded
from tests.oracles.powerloss.sectors import SECTOR, NotBootableError, Reader

_SYSTEM_PARTITION = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_HEADER = struct.Struct("<8s4sIII QQQQ16sQIII")
_MOST_ENTRY_BYTES = 1 << 20
REMOVABLE = r"\EFI\BOOT\BOOTX64.EFI"


@dataclass(frozen=True)
class Header:
    """A header of a GPT that is valid with its entries; numbers of logical sectors."""

    raw: bytes
    own: int
    alternate: int
    first_usable: int
    last_usable: int
    entries_at: int
    entry_bytes: int
    entries: bytes

    def copy_for(self, own: int, entries_at: int) -> bytes:
        """Return it as the other of the pair, with its checksum."""
        header = bytearray(self.raw)
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<QQ", header, 24, own, self.own)
        struct.pack_into("<Q", header, 72, entries_at)
        (length,) = struct.unpack_from("<I", header, 12)
        struct.pack_into("<I", header, 16, zlib.crc32(header[:length]))
        return bytes(header)


@dataclass(frozen=True)
class Uefi:
    """OVMF or the like."""

    configuration: Sequence[str]
    """Paths of GRUB's configuration on the system partition, the first that is there counts; none
    if the loader has it embedded."""
    loaders: Sequence[str] = (REMOVABLE,)
    """Paths by which it may boot: every one must lead to a program."""
    sector_bytes: int = SECTOR

    def repairs(self, disk: Reader) -> Mapping[int, bytes]:
        """Return what it writes where one of the two tables is damaged."""
        if not self._is_protective(disk):
            return {}
        last = disk.sectors // self._unit - 1
        primary = self._valid(disk, 1)
        if primary is None:
            backup = self._valid(disk, last)
            return {} if backup is None else self._restored(backup, 1, 2)
        if self._valid(disk, primary.alternate) is not None:
            return {}
        return self._restored(primary, primary.alternate, primary.last_usable + 1)

    def load(self, disk: Reader) -> Loaded:
        """Load by GRUB what the first system partition has."""
        if not self._is_protective(disk):
            raise NotBootableError("LBA 0 is no protective MBR")
        header = self._valid(disk, 1)
        if header is None:
            raise NotBootableError("LBA 1 has no valid table")
        begin, end = self._system_partition(header)

        def read(offset: int, length: int) -> bytes:
            first = offset // SECTOR
            count = -(-(offset + length) // SECTOR) - first
            if (begin * self._unit) + first + count > end * self._unit:
                raise NotBootableError("a file reaches beyond the system partition")
            content = disk.read(begin * self._unit + first, count)
            return content[offset % SECTOR :][:length]

        fat = Fat(read)
        for loader in self.loaders:
            if not fat.file(loader).startswith(b"MZ"):
                raise NotBootableError(f"{loader} is no program")
        if self.configuration:
            text = self._configuration(fat)
        else:
            text = grub_config.embedded(fat.file(self.loaders[0]), wide=True)
        entry = grub_config.parse(text)
        names = [name.partition(")")[2] if name[0] == "(" else name for name in entry.initrds]
        kernel = entry.kernel.partition(")")[2] if entry.kernel[0] == "(" else entry.kernel
        initramfs = b"".join(fat.file(name) for name in names)
        return Loaded(fat.file(kernel), initramfs, entry.words)

    @property
    def _unit(self) -> int:
        return self.sector_bytes // SECTOR

    def _read(self, disk: Reader, lba: int, length: int) -> bytes:
        count = -(-length // self.sector_bytes) * self._unit
        return disk.read(lba * self._unit, count)

    def _configuration(self, fat: Fat) -> str:
        for path in self.configuration:
            try:
                return fat.file(path).decode()
            except NotBootableError:
                continue
        raise NotBootableError("GRUB has no configuration on the system partition")

    def _is_protective(self, disk: Reader) -> bool:
        mbr = disk.read(0, 1)
        entries = [mbr[at : at + 16] for at in range(446, 510, 16)]
        return mbr[510:] == b"\x55\xaa" and any(
            entry[4] == 0xEE and struct.unpack_from("<I", entry, 8)[0] == 1 for entry in entries
        )

    def _valid(self, disk: Reader, lba: int) -> Header | None:
        try:
            raw = self._read(disk, lba, self.sector_bytes)
        except NotBootableError:
            return None
        signature, _, length, checksum, _, own, alternate, first, last, _, at, count, size, crc = (
            _HEADER.unpack_from(raw)
        )
        if signature != b"EFI PART" or own != lba or not 92 <= length <= self.sector_bytes:
            return None
        plain = raw[:16] + bytes(4) + raw[20:length]
        if zlib.crc32(plain) != checksum or size < 128 or count * size > _MOST_ENTRY_BYTES:
            return None
        try:
            entries = self._read(disk, at, count * size)[: count * size]
        except NotBootableError:
            return None
        if zlib.crc32(entries) != crc:
            return None
        return Header(raw, own, alternate, first, last, at, size, entries)

    def _restored(self, header: Header, own: int, entries_at: int) -> Mapping[int, bytes]:
        padding = -len(header.entries) % self.sector_bytes
        return {
            own * self._unit: header.copy_for(own, entries_at),
            entries_at * self._unit: header.entries + bytes(padding),
        }

    def _system_partition(self, header: Header) -> tuple[int, int]:
        for at in range(0, len(header.entries), header.entry_bytes):
            entry = header.entries[at : at + header.entry_bytes]
            begin, last = struct.unpack_from("<QQ", entry, 32)
            usable = header.first_usable <= begin <= last <= header.last_usable
            if entry[:16] == _SYSTEM_PARTITION and usable:
                return begin, last + 1
        raise NotBootableError("the table has no system partition")
