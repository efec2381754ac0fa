"""What the firmware reads: FAT file systems, its own variables, and kernels as programs."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.disk import fat
from holdfast.privileged.boot.disk.gpt import ESP, GptPartition, partition_at
from holdfast.privileged.boot.disk.read_back import digest_of_extents
from holdfast.privileged.boot.kernel import Stub, stub_of
from holdfast.privileged.boot.loaders.boot_next import LoadOption, device_path
from holdfast.privileged.boot.loaders.efi_variables import GLOBAL, LOADER, EfiVariables, efi_text
from tests.support.disks import gpt

MIB = 1 << 20
PARTITION = GptPartition(3, ESP, "a1b2c3d4-0001-0002-0003-0123456789ab", 4194304, 512000)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


class TestFat:
    @pytest.fixture(params=[("12", 2), ("16", 16), ("32", 64)], ids=lambda kind: f"FAT{kind[0]}")
    def device(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """A file system, with directories and enough files to make one of them long."""
        bits, size = request.param
        path = tmp_path / "fat"
        path.touch()
        os.truncate(path, size * MIB)
        _run("mkfs.vfat", "-F", bits, path)
        _run("mmd", "-i", path, "::/loader", "::/loader/entries")
        tree = tmp_path / "tree"
        tree.mkdir()
        for number in range(60):
            (tree / f"an-entry-with-a-long-name-{number}.conf").write_text(str(number))
        _run("mcopy", "-i", path, *sorted(tree.iterdir()), "::/loader/entries/")
        return path

    def put(self, device: Path, name: str, content: bytes) -> None:
        subprocess.run(["mcopy", "-o", "-i", device, "-", f"::{name}"], input=content, check=True)

    @pytest.mark.parametrize("size", [1, 4096, 300_001])
    def test_a_file_is_where_it_says(self, device: Path, size: int) -> None:
        content = os.urandom(size)
        self.put(device, "/loader/entries/holdfast-imager.conf", content)
        # Names are the same in whichever case, as for the firmware.
        found = fat.extents_of(device, "/LOADER/entries/Holdfast-Imager.conf")
        assert len(found) == 1
        assert digest_of_extents(device, found, size) == hashlib.sha256(content).hexdigest()

    def test_a_file_in_pieces(self, device: Path) -> None:
        for number in range(40):
            self.put(device, f"/small{number}", bytes(8192))
        for number in range(0, 40, 2):
            _run("mdel", "-i", device, f"::/small{number}")
        content = os.urandom(20 * 8192)
        self.put(device, "/pieces", content)
        found = fat.extents_of(device, "/pieces")
        digest = digest_of_extents(device, found, len(content))
        assert digest == hashlib.sha256(content).hexdigest()

    def test_what_is_not_there(self, device: Path) -> None:
        for name in ("/nowhere", "/loader/nowhere", "/loader/entries/an-entry"):
            with pytest.raises(FileNotFoundError):
                fat.extents_of(device, name)
        with pytest.raises(NotADirectoryError):
            fat.extents_of(device, "/loader/entries/an-entry-with-a-long-name-1.conf/x")

    def test_an_empty_file_is_nowhere(self, device: Path) -> None:
        self.put(device, "/empty", b"")
        assert fat.extents_of(device, "/empty") == []

    def test_anything_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other"
        path.write_bytes(os.urandom(MIB))
        with pytest.raises(OSError, match="cannot be recognised"):
            fat.extents_of(path, "/x")

    def test_a_chain_that_is_broken(self, device: Path) -> None:
        self.put(device, "/broken", b"x" * 300_000)
        whole = bytearray(device.read_bytes())
        sector, reserved = struct.unpack_from("<H", whole, 11)[0], whole[14]
        table = reserved * sector
        end = table + (int.from_bytes(whole[22:24], "little") or 64) * sector
        # Directories come first, and have one cluster or few; the file has many.
        begin = table + 96
        whole[begin:end] = bytes(end - begin)
        device.write_bytes(whole)
        with pytest.raises(OSError, match=r"its FAT file system has a chain .* broken") as refusal:
            fat.extents_of(device, "/broken")
        assert (refusal.value.errno, refusal.value.filename) == (errno.EINVAL, str(device))

    def test_a_table_that_contradicts_the_size_is_refused(self, device: Path) -> None:
        whole = bytearray(device.read_bytes())
        whole[22:24] = bytes(2) if any(whole[22:24]) else b"\1\0"
        device.write_bytes(whole)
        with pytest.raises(OSError, match="its FAT file system cannot be recognised"):
            fat.extents_of(device, "/loader")

    def test_a_chain_without_an_end(self, device: Path) -> None:
        self.put(device, "/round", b"x" * 8192)
        whole = bytearray(device.read_bytes())
        sector, reserved = struct.unpack_from("<H", whole, 11)[0], whole[14]
        table = reserved * sector
        length = (int.from_bytes(whole[22:24], "little") or 64) * sector
        # Every cluster follows itself or another, and none is the last.
        whole[table : table + length] = b"\x03\x30\x00\x00" * (length // 4)
        device.write_bytes(whole)
        with pytest.raises(OSError, match=r"its FAT file system|is not on the disk"):
            fat.extents_of(device, "/round")


class TestVariables:
    @pytest.fixture
    def variables(self, tmp_path: Path) -> EfiVariables:
        (tmp_path / "firmware/efi/efivars").mkdir(parents=True)
        return EfiVariables(MachineFiles(sys=tmp_path))

    def test_they_last_and_can_be_deleted(self, variables: EfiVariables, tmp_path: Path) -> None:
        variables.write("LoaderEntryOneShot", LOADER, efi_text("a.conf"))
        path = tmp_path / "firmware/efi/efivars" / f"LoaderEntryOneShot-{LOADER}"
        assert path.read_bytes() == b"\7\0\0\0" + b"a\0.\0c\0o\0n\0f\0\0\0"
        assert variables.text("LoaderEntryOneShot", LOADER) == "a.conf"
        variables.delete("LoaderEntryOneShot", LOADER)
        variables.delete("LoaderEntryOneShot", LOADER)
        assert variables.read("LoaderEntryOneShot", LOADER) is None

    def test_the_firmwares_menu(self, variables: EfiVariables) -> None:
        for name in ("Boot0001", "Boot00AF", "BootOrder", "BootNext", "BootCurrent", "Boot1"):
            variables.write(name, GLOBAL, b"x")
        assert variables.boot_numbers() == [1, 0xAF]

    @pytest.mark.parametrize(("value", "on"), [(b"\1", True), (b"\0", False), (None, False)])
    def test_secure_boot(self, variables: EfiVariables, value: bytes | None, on: bool) -> None:
        if value is not None:
            variables.write("SecureBoot", GLOBAL, value)
        assert variables.secure_boot is on


class TestLoadOptions:
    def test_one_that_is_laid_out_by_hand(self) -> None:
        """EFI_LOAD_OPTION, then nodes of a hard drive, a file and the end (UEFI 2.10, 10.3)."""
        value = bytes.fromhex(
            "01000000" "3800" "4c0069006e00750078000000"
            "04012a00" "03000000" "0000400000000000" "00d0070000000000"
            "d4c3b2a10100020000030123456789ab" "0202"
            "04040a00" "5c0061000000" "7fff0400" "78000000"
        )  # fmt: skip
        found = LoadOption.parsed(value)
        assert found is not None
        assert (found.title, found.arguments) == ("Linux", "x")
        assert found.path == device_path(PARTITION, "\\a")
        assert found.encoded() == value

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
    def test_there_and_back(self, text: str) -> None:
        option = LoadOption("title", device_path(PARTITION, "\\holdfast\\vmlinuz"), text)
        assert LoadOption.parsed(option.encoded()) == option

    @given(st.binary(max_size=200))
    def test_anything_is_parsed_or_not(self, value: bytes) -> None:
        LoadOption.parsed(value)


def test_a_partition_is_found_by_where_it_begins(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    entry = f"start=9MiB, size=8MiB, type={ESP}, uuid={PARTITION.uuid}"
    table = f"label: gpt\nstart=1MiB, size=8MiB\n{entry}\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    found = partition_at(disk, 9 * MIB)
    assert found == GptPartition(2, ESP, PARTITION.uuid, 9 * 2048, 8 * 2048)
    assert partition_at(disk, 10 * MIB) is None
    assert partition_at(disk, 9 * MIB, 4096) is None
    disk.write_bytes(bytes(4 * MIB))
    assert partition_at(disk, MIB) is None


def test_a_partition_is_counted_in_the_sectors_of_its_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    entries = gpt.entries(2, ESP, PARTITION.uuid, 9 * 256, 17 * 256 - 1)
    _table(disk, 4096, gpt.header(entries), entries)
    found = partition_at(disk, 9 * MIB, 4096)
    assert found == GptPartition(2, ESP, PARTITION.uuid, 9 * 256, 8 * 256)
    assert partition_at(disk, 9 * MIB) is None


def _table(disk: Path, sector_bytes: int, header: bytes, entries: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(sector_bytes)
        file.write(header)
        file.seek(2 * sector_bytes)
        file.write(entries)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"at": 60}, "the checksum of its header is wrong"),
        ({"entry_at": 40}, "the checksum of its entries is wrong"),
        ({"own": 2}, "its header is of another place of the disk"),
        ({"entry_bytes": 0}, "its entries have an impossible size"),
        ({"entry_bytes": 1 << 20}, "its entries have an impossible size"),
        ({"table": 1 << 20}, "its entries are not where they can be"),
        ({"table": (1 << 64) - 1}, "its entries are not where they can be"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, *value.items())),
)
def test_a_damaged_table_is_refused(
    tmp_path: Path, sector_bytes: int, damage: dict[str, int], why: str
) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    entries = bytearray(gpt.entries(2, ESP, PARTITION.uuid, 40, 79))
    header = bytearray(
        gpt.header(
            bytes(entries),
            own=damage.get("own", 1),
            table=damage.get("table", 2),
            entry_bytes=damage.get("entry_bytes", 128),
        )
    )
    if "at" in damage:
        header[damage["at"]] ^= 1
    if "entry_at" in damage:
        entries[damage["entry_at"]] ^= 1
    _table(disk, sector_bytes, bytes(header), bytes(entries))
    with pytest.raises(OSError, match="table cannot be understood") as refusal:
        partition_at(disk, MIB, sector_bytes)
    assert refusal.value.strerror == f"its partition table cannot be understood: {why}"
    assert (refusal.value.errno, refusal.value.filename) == (errno.EINVAL, str(disk))


def _program(directories: int, certificates: int) -> bytes:
    head = bytearray(8192)
    head[:2] = b"MZ"
    head[0x3C] = 0x80
    head[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<H", head, 0x98, 0x20B)
    struct.pack_into("<I", head, 0x98 + 108, directories)
    struct.pack_into("<II", head, 0x98 + 112 + 32, 4096, certificates)
    return bytes(head)


@pytest.mark.parametrize(
    ("content", "stub"),
    [
        (_program(16, 2048), Stub(signed=True)),
        (_program(16, 0), Stub(signed=False)),
        (_program(4, 2048), Stub(signed=False)),
        (b"\xea" + bytes(8191), None),
        (b"MZ" + bytes(8190), None),
        (b"MZ", None),
    ],
)
def test_kernels_that_a_firmware_can_start(
    tmp_path: Path, content: bytes, stub: Stub | None
) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(content)
    assert stub_of(kernel) == stub
