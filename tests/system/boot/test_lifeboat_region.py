"""A lifeboat in its region: what is written there, and what a BIOS would find."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from holdfast.privileged.boot.lifeboat import bios, region
from holdfast.privileged.boot.lifeboat.parts import (
    HEADER_BYTES,
    PARTS_AT,
    SWITCH_AT,
    LifeboatError,
    Part,
    Parts,
    Region,
)
from holdfast.privileged.boot.lifeboat.region import Sink

MIB = 1 << 20
NONCE = "0123456789abcdef" * 2
REGION = Region(30 * MIB + 3 * 4096, 8 * MIB)
OLD = os.urandom(440) + b"\x11\x22\x33\x44\0\0" + b"\x80partition table".ljust(64) + b"\x55\xaa"


@contextmanager
def sink(disk: Path) -> Iterator[Sink]:
    file = os.open(disk, os.O_RDWR)
    try:
        yield Sink(file, REGION.offset_bytes)
    finally:
        os.close(file)


@pytest.fixture
def disk(disk_dir: Path) -> Path:
    path = disk_dir / "disk"
    path.write_bytes(os.urandom(40 * MIB))
    return path


def write(disk: Path, parts: Parts) -> bytes:
    with sink(disk) as file:
        return region.write(disk, file, REGION, parts, NONCE)


def test_what_is_written_is_what_the_header_describes_and_nothing_else(disk: Path) -> None:
    before = disk.read_bytes()
    file = disk.with_name("kernel")
    file.write_bytes(os.urandom(MIB + 77))
    parts = Parts(
        "uefi",
        512,
        1,
        b"\x33" * 512,
        [Part("esp", PARTS_AT + 8192, file), Part("table", PARTS_AT, b"t")],
    )

    header = write(disk, parts)

    after = disk.read_bytes()
    begin, end = REGION.offset_bytes, REGION.end_bytes
    assert (after[:begin], after[end:]) == (before[:begin], before[end:])
    inside = after[begin:end]
    assert inside[:HEADER_BYTES] == header
    text, _, rest = header.partition(b"\n")
    assert not rest.strip()
    found = json.loads(text)
    assert (found["format"], found["version"], found["nonce"]) == ("holdfast-lifeboat", 1, NONCE)
    assert (found["firmware"], found["sector_bytes"]) == ("uefi", 512)
    assert found["length_bytes"] == REGION.length_bytes
    assert found["journal"] == {"offset_bytes": 4096, "length_bytes": 65536}
    assert inside[4096:SWITCH_AT] == bytes(65536)
    assert inside[SWITCH_AT:PARTS_AT] == parts.switch.ljust(PARTS_AT - SWITCH_AT, b"\0")
    assert found["switch"] == {
        "lba": 1,
        "offset_bytes": SWITCH_AT,
        "sha256": hashlib.sha256(parts.switch).hexdigest(),
    }
    assert [part["name"] for part in found["parts"]] == ["table", "esp"]
    contents = {"table": b"t", "esp": file.read_bytes()}
    for part in found["parts"]:
        stored = inside[part["offset_bytes"] :][: part["length_bytes"]]
        assert stored.rstrip(b"\0") == contents[part["name"]].rstrip(b"\0")
        assert len(stored) % 4096 == 0
        assert hashlib.sha256(stored).hexdigest() == part["sha256"]
    assert region.nonce_in(disk, REGION) == NONCE

    with sink(disk) as file_again:
        region.wipe(disk, file_again, REGION)

    after = disk.read_bytes()
    assert after == before[:begin] + bytes(end - begin) + before[end:]
    assert region.nonce_in(disk, REGION) is None


class CutSink(Sink):
    """One whose disk is gone after a number of writes and flushes."""

    left = 0

    def write(self, offset: int, chunks: Iterable[bytes]) -> int:
        for chunk in chunks:
            self._count()
            offset = super().write(offset, [chunk])
        return offset

    def flush(self) -> None:
        self._count()
        super().flush()

    def _count(self) -> None:
        if CutSink.left == 0:
            raise OSError(errno.EIO, "cut off")
        CutSink.left -= 1


def test_what_is_left_of_a_wipe_that_was_cut_off_is_still_known(disk: Path) -> None:
    file = os.urandom(5 * MIB)
    write(disk, Parts("bios", 512, 0, bytes(512), [Part("kernel", PARTS_AT, file)]))
    content = disk.read_bytes()
    known = []
    for steps in range(7):
        disk.write_bytes(content)
        CutSink.left = steps
        with sink(disk) as whole, suppress(OSError):
            region.wipe(disk, CutSink(whole.file, whole.offset_bytes), REGION)
        left = disk.read_bytes()[REGION.offset_bytes : REGION.end_bytes]
        known.append(region.nonce_in(disk, REGION))
        assert known[-1] == NONCE or not any(left[HEADER_BYTES:])
    assert (known[0], known[-1], any(left)) == (NONCE, None, False)


def test_what_does_not_fit_or_does_not_get_to_the_device_is_refused(disk: Path) -> None:
    before = disk.read_bytes()
    large = Parts("bios", 512, 0, bytes(512), [Part("kernel", PARTS_AT, bytes(8 * MIB))])
    with pytest.raises(LifeboatError, match="needs 9437184 bytes, and has 8388608"):
        write(disk, large)
    assert disk.read_bytes() == before
    other = disk.with_name("other")
    shutil.copy(disk, other)
    small = Parts("bios", 512, 0, bytes(512), [Part("kernel", PARTS_AT, b"kernel")])
    with sink(other) as file, pytest.raises(OSError, match="does not have what was written"):
        region.write(disk, file, REGION, small, NONCE)


@pytest.mark.skipif(bios.missing_tools() is not None, reason="GRUB's tools are not installed")
def test_a_bios_finds_the_core_image_and_that_the_kernel(disk: Path) -> None:
    kernel, initramfs = os.urandom(MIB + 1), os.urandom(MIB - 1)
    parts = bios.build(REGION, kernel, initramfs, ["console=ttyS0", "a=b c"], OLD)
    write(disk, parts)

    assert (parts.firmware, parts.switch_lba, len(parts.switch)) == ("bios", 0, 512)
    # Disk signature and partition table are as they were.
    assert parts.switch[440:] == OLD[440:]
    content = disk.read_bytes()
    (first,) = struct.unpack_from("<Q", parts.switch, 0x5C)
    assert parts.switch[0x66:0x68] == b"\x90\x90"
    start, sectors, segment = struct.unpack_from("<QHH", content, first * 512 + 500)
    assert (start, segment) == (first + 1, 0x820)
    core = next(part for part in parts.parts if part.name == "core")
    assert first * 512 == REGION.offset_bytes + core.offset_bytes
    assert isinstance(core.content, bytes)
    assert len(core.content) - 4096 <= (sectors + 1) * 512 <= len(core.content)
    for part, whole in (("kernel", kernel), ("initramfs", initramfs)):
        placed = next(candidate for candidate in parts.parts if candidate.name == part)
        at = REGION.offset_bytes + placed.offset_bytes
        assert content[at:].startswith(whole)
    with pytest.raises(LifeboatError, match="sectors of 4096 bytes"):
        bios.build(REGION, kernel, initramfs, [], OLD, sector_bytes=4096)


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(LifeboatError, match="grub-pc-bin"):
        bios.build(REGION, b"", b"", [], OLD, directories=[str(tmp_path)])
    assert "grub-pc-bin" in (bios.missing_tools([str(tmp_path)]) or "")
