"""What is wrong with a staged image, or with the data disks that hold it."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.data import PATH, Data
from tests.vm.imager.images import MIB, Image, describe, file_of
from tests.vm.imager.machine import HURRIED
from tests.vm.imager.rig import Rig
from tests.vm.reimage.telling import tell


@pytest.mark.parametrize("where", [("ext4",), ("xfs", "raid0")], ids="-".join)
def test_nothing_is_wrong(rig: NewRig, staged: MakeData, where: tuple[str, ...]) -> None:
    machine = rig()
    machine.put_data(staged(*where))
    machine.written(machine.run(machine.arm(), machine.drives(nvme=True)))


def test_bits_flipped_on_the_data_disk(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    disk = machine.put_data(staged()).disks[0]
    content = machine.image.content.read_bytes()
    _flip(disk, content[len(content) // 2 :][:4096])
    machine.refused(machine.run(machine.arm()), "is not the image|cannot be unpacked|damaged")
    assert machine.record.phase == "verifying"


def _flip(disk: Path, needle: bytes) -> None:
    with disk.open("r+b") as file:
        at = file.read().index(needle)
        file.seek(at)
        file.write(bytes([needle[0] ^ 1]))


def test_the_staged_file_is_missing(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    data = machine.put_data(staged())
    elsewhere = {**data.source, "path": PATH.replace("abc", "def")}
    reason = "def/image: No such file or directory .*only in the journal"
    machine.refused(machine.run(machine.arm(source=elsewhere)), reason)


@pytest.fixture
def replaced(rig: NewRig, staged: MakeData) -> Callable[[Callable[[bytes], bytes]], Rig]:
    """Give a function that makes a rig of which the staged file was made into something else."""

    def make(change: Callable[[bytes], bytes]) -> Rig:
        machine = rig()
        data = machine.put_data(staged())
        content = change(machine.image.content.read_bytes())
        changed = machine.directory / "changed"
        changed.write_bytes(content)
        _replace(data, changed)
        return machine

    return make


def _replace(data: Data, content: Path) -> None:
    """Put another file in the staged one's place."""
    commands = f"rm {PATH}\nwrite {content} {PATH}\n"
    done = subprocess.run(
        ("debugfs", "-w", "-f", "-", str(data.disks[0])),
        input=commands,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Allocated inode" in done.stdout, done.stdout + done.stderr


Replaced = Callable[[Callable[[bytes], bytes]], Rig]


def test_the_staged_image_is_truncated(replaced: Replaced) -> None:
    machine = replaced(lambda content: content[: len(content) // 2])
    machine.refused(machine.run(machine.arm()), "its end is missing")


def test_it_unpacks_to_more_than_the_image(replaced: Replaced) -> None:
    def bomb(content: bytes) -> bytes:
        # 64 GiB of zeros, in 2 MiB.
        zeros = subprocess.run(
            "head -c 1G /dev/zero | zstd -q", shell=True, capture_output=True, check=True
        )
        return content + zeros.stdout * 64

    machine = replaced(bomb)
    machine.refused(machine.run(machine.arm()), "more|after|follow")


def test_the_window_of_zstd_is_too_large(replaced: Replaced) -> None:
    def repacked(content: bytes) -> bytes:
        command = "zstd -qdc | zstd -q -1 --long=28 --no-check"
        packed = subprocess.run(command, shell=True, input=content, capture_output=True, check=True)
        return packed.stdout

    machine = replaced(repacked)
    machine.refused(machine.run(machine.arm()), "window|memory")


@pytest.mark.parametrize(
    "command",
    [("xz", "-q", "--lzma2=dict=64MiB"), ("zstd", "-q", "-3", "--zstd=wlog=26")],
    ids=lambda command: str(command[0]),
)
def test_it_takes_the_most_memory_to_unpack(
    rig: NewRig, staged: MakeData, system: Image, tmp_path: Path, command: tuple[str, ...]
) -> None:
    raw, packed = tmp_path / f"{command[0]}.raw", tmp_path / f"packed.{command[0]}"
    subprocess.run(("cp", "--sparse=always", system.raw, raw), check=True)
    with raw.open("rb") as source, packed.open("wb") as target:
        subprocess.run((*command, "-c"), stdin=source, stdout=target, check=True)
    machine = rig(describe(packed, raw))
    machine.put_data(staged(holding=machine.image))
    done = machine.run(machine.arm())
    assert "the new system is on the disk; rebooting into it" in done.said, done.said
    marker = json.loads(file_of(machine.target, "/etc/holdfast/reimaged.json"))
    tell(f"{command[0]}: at most {marker['memory_peak_bytes'] / MIB:.1f} MiB of memory")
    assert marker["memory_peak_bytes"] <= 128 * MIB


def test_the_image_is_larger_than_the_disk(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    directory = machine.directory / "large"
    directory.mkdir()
    large = directory / "large.raw"
    subprocess.run(("cp", "--sparse=always", machine.image.raw, large), check=True)
    with large.open("r+b") as file:
        file.truncate(128 * MIB)

    machine.image = describe(large, large)
    machine.refused(
        machine.run(machine.arm()), "/dev/vda has 100663296 bytes, and the image 134217728"
    )


def test_another_descriptor_than_the_jobs(rig: NewRig, staged: MakeData, thin: Image) -> None:
    machine = rig()
    machine.put_data(staged())
    initrd = machine.arm(change=lambda job: job.update(descriptor_sha256="0" * 64))
    machine.refused(machine.run(initrd), "the descriptor is not the one that the job names")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_journal_of_the_data_was_not_replayed(rig: NewRig, staged: MakeData, kind: str) -> None:
    machine = rig()
    machine.put_data(staged(kind, ended="journal"))
    machine.written(machine.run(machine.arm()))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_image_is_only_in_the_journal(rig: NewRig, staged: MakeData, kind: str) -> None:
    machine = rig()
    machine.put_data(staged(kind, ended="only_in_journal"))
    machine.refused(machine.run(machine.arm()), "No such file|is not the image|ends|corrupt")


def test_a_member_of_the_raid0_is_missing(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged("xfs", "raid0"))
    drives = machine.drives()[:-1]
    done = machine.run(machine.arm(), drives, options=HURRIED)
    machine.refused(done, "only 1 of 2 members of the array .* a RAID0 needs all")


def test_the_raid1_is_degraded(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged("ext4", "raid1"))
    drives = machine.drives()[:-1]
    machine.written(machine.run(machine.arm(), drives, options=HURRIED))


def test_all_of_the_data_are_missing(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    done = machine.run(machine.arm(), machine.drives()[:1], options=HURRIED)
    machine.refused(done, "no disk has the file system")


def test_a_member_is_of_another_array(rig: NewRig, staged: MakeData) -> None:
    """As when disks of two machines were mixed up: nothing is put together from both."""
    machine = rig()
    data = machine.put_data(staged("xfs", "raid0"))
    with data.disks[1].open("r+b") as disk:
        disk.seek(4096)
        superblock = disk.read(4096)
        disk.seek(4096)
        disk.write(_of_another_array(superblock))
    done = machine.run(machine.arm(), options=HURRIED)
    machine.refused(done, "only 1 of 2 members of the array")


def _of_another_array(superblock: bytes) -> bytes:
    """Give it another UUID, and the checksum that goes with it (md_p.h, calc_sb_1_csum)."""
    block = bytearray(superblock)
    block[16:32] = random.Random(5).randbytes(16)
    block[216:220] = bytes(4)
    count = 256 + 2 * int.from_bytes(block[220:224], "little")
    words = [int.from_bytes(block[at : min(at + 4, count)], "little") for at in range(0, count, 4)]
    total = sum(words)
    block[216:220] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(block)


def test_there_is_a_copy_of_a_data_disk(rig: NewRig, staged: MakeData) -> None:
    """As when a snapshot is attached: which of two is the right one is unknowable."""
    machine = rig()
    data = machine.put_data(staged())
    copy = machine.directory / "copy.raw"
    subprocess.run(("cp", "--sparse=always", data.disks[0], copy), check=True)
    machine.data = replace(data, disks=(*data.disks, copy))
    machine.refused(
        machine.run(machine.arm(data_disks=data.named()), machine.drives()),
        "several disks have the file system",
    )
