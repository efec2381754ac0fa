"""A BIOS, and GRUB as it is loaded by one: LBA 0, the core image's list of blocks, raw sectors.

The formats are those of GRUB 2.06: boot.S, diskboot.S, startup_raw.S, kernel.h (modules) and
include/grub/offsets.h.
"""

from __future__ import annotations

import functools
import lzma
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from tests.oracles.powerloss import grub_config
from tests.oracles.powerloss.loaded import Loaded
from tests.oracles.powerloss.sectors import SECTOR, NotBootableError, Reader

GRUB = Path("/usr/lib/grub/i386-pc")
_SIGNATURE = b"\x55\xaa"
_CORE_AT = 0x5C
"""In boot.img, the first sector of the core image; 64 bits."""
# Parts of boot.img that an installation changes: the BIOS parameter block, the place of the core,
# the drive, the jump, and from the disk's signature on the partition table.
_CHANGED_IN_BOOT = ((0x03, 0x5A), (0x5C, 0x65), (0x66, 0x68), (0x1B8, 0x200))
_LIST_AT, _LIST_ENTRY = SECTOR - 12, struct.Struct("<QHH")
_CODE_LIST_BEGINS = 0x1A0
"""In diskboot.img, above its code and messages; the list grows down towards it."""
_SEGMENT = 0x820
_LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}]
_MOST_UNPACKED = 4 << 20
_BOOTED = {"", "hd0", "$root", "${root}"}
"""Names of the disk that a BIOS booted; `root` is it as long as nothing sets it."""
_BLOCKS = re.compile(r"\(([^)]*)\)(\d+)\+(\d+)")


class Bios:
    """SeaBIOS or the like, with the disk as its first one."""

    def repairs(self, disk: Reader) -> Mapping[int, bytes]:
        """Return nothing: a BIOS only reads."""
        return {}

    def load(self, disk: Reader) -> Loaded:
        """Load by GRUB what LBA 0 leads to."""
        first = disk.read(0, 1)
        if not first.endswith(_SIGNATURE):
            raise NotBootableError("LBA 0 has no signature")
        _check_code(first, "boot.img", _CHANGED_IN_BOOT)
        (core_at,) = struct.unpack_from("<Q", first, _CORE_AT)
        entry = grub_config.parse(_config(_core(disk, core_at)))
        kernel = _blocks(disk, [entry.kernel])
        return Loaded(kernel, _blocks(disk, entry.initrds), entry.words)


@functools.cache
def _program(name: str) -> bytes:
    return (GRUB / name).read_bytes()


def _check_code(found: bytes, name: str, changed: tuple[tuple[int, int], ...]) -> None:
    """Check that code of GRUB is whole but for what an installation changes."""
    wanted, seen = bytearray(_program(name)), bytearray(found)
    for begin, end in changed:
        wanted[begin:end] = seen[begin:end] = bytes(end - begin)
    if wanted != seen[: len(wanted)]:
        raise NotBootableError(f"a sector is not the code of {name}")


def _core(disk: Reader, at: int) -> bytes:
    """Read a core image by the list in its first sector; return it without that sector."""
    first = disk.read(at, 1)
    _check_code(first, "diskboot.img", ((_CODE_LIST_BEGINS, SECTOR),))
    core, segment = b"", _SEGMENT
    for place in range(_LIST_AT, _CODE_LIST_BEGINS, -_LIST_ENTRY.size):
        begin, count, loaded_at = _LIST_ENTRY.unpack_from(first, place)
        if count == 0:
            return core
        if loaded_at != segment:
            raise NotBootableError(f"a part of the core image is loaded to {loaded_at:#x}")
        core += disk.read(begin, count)
        segment += count * SECTOR // 16
    raise NotBootableError("the core image's list of blocks has no end")


@functools.lru_cache(8)
def _config(core: bytes) -> str:
    """Return the configuration that is embedded in a core image."""
    unpacker = _program("lzma_decompress.img")
    # The first 16 bytes have the sizes, and those before the code what an installation sets.
    _check_code(core, "lzma_decompress.img", ((0, 0x1C),))
    packed_bytes, unpacked_bytes = struct.unpack_from("<II", core, 8)
    packed = core[len(unpacker) : len(unpacker) + packed_bytes]
    if len(packed) != packed_bytes or unpacked_bytes > _MOST_UNPACKED:
        raise NotBootableError("the core image is not whole")
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    try:
        kernel = decompressor.decompress(packed, unpacked_bytes)
    except lzma.LZMAError as error:
        raise NotBootableError(f"the core image cannot be unpacked: {error}") from error
    if len(kernel) != unpacked_bytes:
        raise NotBootableError("the core image is not whole")
    return grub_config.embedded(kernel, wide=False)


def _blocks(disk: Reader, names: object) -> bytes:
    """Read files of the form `(hd0)START+LENGTH`, in sectors."""
    assert isinstance(names, list | tuple)
    content = b""
    for name in names:
        match = _BLOCKS.fullmatch(name)
        if match is None:
            raise NotBootableError(f"{name} is no list of blocks")
        device, begin, count = match[1], int(match[2]), int(match[3])
        if device not in _BOOTED:
            raise NotBootableError(f"{device} is not the disk that the firmware booted")
        content += disk.read(begin, count)
    return content
