"""Where a lifeboat is held: never where the image is written, nor where the old system has a byte.

What the old system uses is read with its own tools, before and after.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, system_position
from holdfast.privileged.boot.disk.freeze import settle
from holdfast.privileged.boot.lifeboat import region
from holdfast.privileged.boot.lifeboat.held_file import protect, release_file
from holdfast.privileged.boot.lifeboat.parts import PARTS_AT, LifeboatError, Part, Parts, Region
from holdfast.privileged.boot.lifeboat.place import (
    FILES,
    Place,
    hold,
    is_held,
    prospect,
    uncovered,
)
from tests.support.disks import gpt
from tests.support.disks.bootdisk import run
from tests.support.machine.loops import MIB, attach
from tests.support.machine.mounts import mounted
from tests.support.waiting import until

DISK, IMAGE, LENGTH = 512 * MIB, 200 * MIB, 12 * MIB
NONCE = "0123456789abcdef" * 2


@dataclass
class System:
    """A disk with the root of a machine on it."""

    machine: MachineFiles
    disk: Path
    node: str
    kind: str

    @property
    def position(self) -> DiskPosition:
        found = system_position(self.machine)
        assert isinstance(found, DiskPosition), found
        return found

    def content(self) -> dict[str, str]:
        """Return the digest of every file of the system but the lifeboat's."""
        paths = [path for path in sorted(self.machine.root.rglob("*")) if path.is_file()]
        ours = {self.machine.path(path) for path in FILES}
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
            if path not in ours
        }

    def free(self) -> Sequence[Region]:
        """Return what is free on the disk, as the file system's own tools show it."""
        settle(self.machine.root)
        os.sync()
        start = self.position.start_bytes
        merged: list[Region] = []
        for at, length in sorted(_free(self.kind, self.node)):
            before = 0
            if merged and merged[-1].end_bytes == start + at:
                before = merged.pop().length_bytes
            merged.append(Region(start + at - before, before + length))
        return merged

    def extents(self, path: Path) -> Sequence[Region]:
        """Return where a file is on the disk, as filefrag shows it."""
        shown = run("filefrag", "-b512", "-v", path)
        rows = re.findall(r"^\s*\d+:\s*\d+\.\.\s*\d+:\s*(\d+)\.\.\s*(\d+):", shown, re.MULTILINE)
        start = self.position.start_bytes
        return [Region(start + int(a) * 512, (int(b) - int(a) + 1) * 512) for a, b in rows]


def _free(kind: str, node: str) -> Iterator[tuple[int, int]]:
    if kind == "ext4":
        shown = run("dumpe2fs", node)
        block = int(re.findall(r"^Block size:\s+(\d+)", shown, re.MULTILINE)[0])
        for line in re.findall(r"^ +Free blocks: (.+)$", shown, re.MULTILINE):
            for part in line.split(", "):
                first, _, last = part.partition("-")
                yield int(first) * block, (int(last or first) - int(first) + 1) * block
        return
    shown = run("xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize agblocks", node)
    block, group = (int(number) for number in re.findall(r"= (\d+)", shown))
    shown = run("xfs_db", "-r", "-c", "freesp -d", node)
    for row in re.findall(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s*$", shown, re.MULTILINE):
        number, at, count = (int(part) for part in row)
        yield (number * group + at) * block, count * block


@contextmanager
def system(
    directory: Path,
    kind: str = "ext4",
    table: str = "label: gpt\nstart=1MiB, size=510MiB\n",
    tuned: Sequence[str] = (),
) -> Iterator[System]:
    if os.geteuid() != 0:
        pytest.skip("loop devices and mounts are root's")
    image, root = directory / "disk.img", directory / "root"
    loop = attach(image, DISK)
    try:
        run("sh", "-c", f"printf '{table}' | sfdisk -q --no-reread {loop.device}")
        if not list(Path("/sys/class/block", loop.name).glob("*/partition")):
            run("partx", "--add", loop.device)
        node = f"{loop.device}p1"
        until(Path(node).exists, what=node)
        run(f"mkfs.{kind}", *(["-F", "-q"] if kind == "ext4" else ["-f", "-q"]), node)
        if tuned:
            run("tune2fs", *tuned, node)
        with mounted(root, node):
            (root / "var/lib").mkdir(parents=True)
            (root / "boot").mkdir()
            _use(root)
            machine = MachineFiles(root=root, loop_disks=True)
            yield System(machine, Path(loop.device), node, kind)
        check = ["e2fsck", "-fn"] if kind == "ext4" else ["xfs_repair", "-n"]
        run(*check, node)
    finally:
        forget = ["partx", "--delete", loop.device]
        until(
            lambda: subprocess.run(forget, capture_output=True, check=False).returncode == 0,
            what="the end of its partitions",
        )
        loop.detach()


def _use(root: Path) -> None:
    """Fill it with files, with holes between them all over the disk."""
    for number in range(64):
        (root / f"file{number}").write_bytes(os.urandom(MIB))
    with (root / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100 * MIB)
    os.sync()
    for number in range(0, 64, 3):
        (root / f"file{number}").unlink()


def written(found: System, place: Place) -> None:
    parts = Parts("bios", 512, 0, bytes(512), [Part("kernel", PARTS_AT, os.urandom(10 * MIB))])
    with place.sink() as sink:
        region.write(place.device, sink, place.region, parts, NONCE)
    assert region.nonce_in(found.disk, place.region) == NONCE
    region.verify(found.disk, place.region, NONCE)


def inside(inner: Region, outer: Region) -> bool:
    return outer.offset_bytes <= inner.offset_bytes and inner.end_bytes <= outer.end_bytes


@pytest.mark.parametrize(("kind", "last"), [("ext4", False), ("ext4", True), ("xfs", False)])
def test_a_file_is_held_in_free_blocks_that_the_image_does_not_write(
    disk_dir: Path, kind: str, last: bool
) -> None:
    with system(disk_dir, kind) as found:
        before, free = found.content(), found.free()
        available = os.statvfs(found.machine.root).f_bavail
        planned = prospect(found.machine, found.position, IMAGE, LENGTH)
        assert (planned.kind, planned.offset_bytes) == ("file", None)
        assert "Only arming can determine" in (planned.reason or "")
        assert found.free() == free, "the plan allocated something"

        place = hold(found.machine, found.position, IMAGE, LENGTH, last=last)

        assert (place.kind, place.region.length_bytes) == ("file", LENGTH)
        assert place.region.offset_bytes % 4096 == 0
        assert inside(place.region, Region(IMAGE, DISK - MIB - IMAGE))
        assert any(inside(place.region, region) for region in free), "the old system used it"
        written(found, place)
        assert found.content() == before
        assert place.file is not None
        held = found.extents(place.file.path)
        assert min(part.offset_bytes for part in held) == place.region.offset_bytes
        assert max(part.end_bytes for part in held) == place.region.end_bytes
        assert sum(part.length_bytes for part in held) == LENGTH
        now = os.statvfs(found.machine.root)
        assert (available - now.f_bavail) * now.f_frsize < LENGTH + 2 * MIB, "more is held"
        protect(place.file.path)
        with pytest.raises(PermissionError):
            place.file.path.unlink()

        assert release_file(place.file.path)
        assert not release_file(place.file.path)
        assert found.content() == before


def test_it_is_in_its_place_also_where_data_go_through_the_journal(disk_dir: Path) -> None:
    with system(disk_dir, tuned=["-o", "journal_data"]) as found:
        before = found.content()
        place = hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        assert place.kind == "file"
        written(found, place)
        assert found.content() == before
        assert is_held(found.machine, place.region)
        assert not is_held(found.machine, Region(place.region.offset_bytes, LENGTH + 4096))


def test_a_table_that_leads_out_of_the_disk_is_understood_or_refused(disk_dir: Path) -> None:
    table = "label: gpt\\nstart=1MiB, size=400MiB\\n"
    with system(disk_dir, table=table) as found:
        before = hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        sector = _head(found.disk)
        for far in (DISK // 512, (1 << 54) - 1, (1 << 64) - 1):
            for at, understood in ((32, True), (72, False)):
                changed = sector[:at] + far.to_bytes(8, "little") + sector[at + 8 :]
                _put(found.disk, gpt.checked(changed))
                if understood:  # of a disk that was larger: nobody finds a backup there
                    again = hold(found.machine, found.position, IMAGE, LENGTH, last=False)
                    assert (again.kind, again.region) == ("tail", before.region)
                else:
                    with pytest.raises(OSError, match="cannot be understood"):
                        hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        _put(found.disk, sector[:60] + b"x" + sector[61:])
        with pytest.raises(OSError, match="understood: the checksum of its header is wrong"):
            hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        _put(found.disk, sector)


def _head(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(1024)[512:]


def _put(disk: Path, sector: bytes) -> None:
    with disk.open("rb+") as file:
        file.seek(512)
        file.write(sector)
        file.flush()
        os.fsync(file.fileno())


def test_without_room_it_is_refused_and_nothing_is_left(disk_dir: Path) -> None:
    with system(disk_dir) as found:
        free = found.free()
        for image, reason in (
            (DISK, "has 536870912 bytes, and the image 536870912"),
            (DISK - 8 * MIB, "12582912 bytes that the image does not write are needed"),
        ):
            with pytest.raises(LifeboatError, match=reason):
                hold(found.machine, found.position, image, LENGTH, last=False)
            planned = prospect(found.machine, found.position, image, LENGTH)
            assert (planned.kind, planned.offset_bytes) == ("none", None)
        assert found.free() == free
        # It has the bytes, but not where they are needed, or not beside what has to stay free.
        with (found.machine.root / "full").open("wb") as file:
            space = os.statvfs(found.machine.root)
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - 130 * MIB)
        planned = prospect(found.machine, found.position, IMAGE, LENGTH)
        assert planned.kind == "none"
        with pytest.raises(LifeboatError, match="beside a reserve"):
            hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        (found.machine.root / "full").unlink()
        pieces = [found.machine.root / f"piece{number}" for number in range(95)]
        for piece in pieces:
            with piece.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 3 * MIB)
        os.sync()
        for piece in pieces[::2]:
            piece.unlink()
        assert prospect(found.machine, found.position, IMAGE, LENGTH).kind == "file"
        with pytest.raises(LifeboatError, match="in one piece"):
            hold(found.machine, found.position, IMAGE, LENGTH, last=True)
        for piece in pieces[1::2]:
            piece.unlink()
        assert not any(found.machine.path(path).exists() for path in FILES)
        # But for the directories, which have grown.
        lost = sum(region.length_bytes for region in free) - sum(
            region.length_bytes for region in found.free()
        )
        assert 0 <= lost < 64 << 10


def test_the_tail_is_what_no_table_has_in_use(disk_dir: Path) -> None:
    table = (
        "label: dos\\nstart=1MiB, size=400MiB, type=83\\nstart=410MiB, size=60MiB, type=f\\n"
        "start=412MiB, size=5MiB, type=83\\n"
    )
    with system(disk_dir, table=table) as found:
        before = found.content()
        # Within the extended partition only its logical ones are partitions to the kernel.
        place = hold(found.machine, found.position, IMAGE, LENGTH, last=False)
        assert place.kind == "tail"
        assert inside(place.region, Region(470 * MIB, DISK - MIB - 470 * MIB))
        assert place.region.end_bytes == DISK - MIB
        planned = prospect(found.machine, found.position, IMAGE, LENGTH)
        assert (planned.kind, planned.offset_bytes) == ("tail", place.region.offset_bytes)
        written(found, place)
        assert found.content() == before
        assert uncovered(found.machine, found.position, place.region)
        for taken in (Region(411 * MIB, 4096), Region(469 * MIB, 2 * MIB), Region(0, 4096)):
            assert not uncovered(found.machine, found.position, taken)
        # 41 MiB are there, and not 42.
        large = hold(found.machine, found.position, IMAGE, 41 * MIB, last=False)
        assert large.region.offset_bytes == 470 * MIB
        other = hold(found.machine, found.position, IMAGE, 42 * MIB, last=False)
        assert other.kind == "file"


def test_without_the_disk_it_is_planned_and_not_held(disk_dir: Path) -> None:
    with system(disk_dir, table="label: dos\\nstart=1MiB, size=400MiB, type=83\\n") as found:
        # As in the daemon's unit, which has no device nodes.
        machine = replace(found.machine, dev=disk_dir / "no-devices")
        planned = prospect(machine, found.position, IMAGE, LENGTH)
        assert (planned.kind, planned.length_bytes) == ("tail", LENGTH)
        # Only the disk itself has the partitions that the kernel does not know.
        with pytest.raises(FileNotFoundError):
            hold(machine, found.position, IMAGE, LENGTH, last=False)
