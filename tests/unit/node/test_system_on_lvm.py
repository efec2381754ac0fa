"""The disk of a system that runs from LVM: written over with its own volume group, and no other."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, Disks, position_of, survey, system_position
from tests.support.machine.topologies import Machine

MIB = 1 << 20
AREA = 4096
GROUP, OTHER = "0123456789abcdefghijklmnopqrstuv", "vutsrqponmlkjihgfedcba9876543210"
VOLUMES = ("A" * 32, "B" * 32, "C" * 32)


def checksum(data: bytes) -> bytes:
    """Return LVM's checksum (`lib/misc/crc.c`)."""
    initial = 0xF597A6CF ^ 0xFFFFFFFF
    return (zlib.crc32(data, initial) ^ 0xFFFFFFFF).to_bytes(4, "little")


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def physical_volume(own: str, group: str, volumes: Sequence[str]) -> bytes:
    """Return the beginning of a physical volume, with its group's metadata."""
    rest = b"\x20\0\0\0LVM2 001" + own.encode()
    rest += numbers(32 * MIB, MIB, 0, 0, 0, AREA, MIB - AREA)
    rest = rest.ljust(512 - 20, b"\0")
    label = b"LABELONE\x01".ljust(16, b"\0") + checksum(rest) + rest
    places = "".join(f'pv{n} {{\nid = "{volume}"\n}}\n' for n, volume in enumerate(volumes))
    text = f'rl {{\nid = "{group}"\nseqno = 1\nphysical_volumes {{\n{places}}}\n}}\n\0'.encode()
    header = b" LVM2 x[5A%r0N*>\x01\0\0\0" + numbers(AREA, MIB - AREA, 512, len(text))
    header = (header + checksum(text)).ljust(508, b"\0")
    area = checksum(header) + header + text
    return (bytes(512) + label).ljust(AREA, b"\0") + area.ljust(2 * MIB - AREA, b"\0")


@dataclass
class OnLvm:
    """A machine with /boot on a partition and / on `rl/root` on the next one of /dev/vda."""

    fake: Machine
    files: MachineFiles

    def put(self, name: str, content: bytes) -> None:
        (self.files.dev / name).write_bytes(content)

    def mapped(self, name: str, number: str, uuid: str, *below: str) -> None:
        """Add a mapped device on others."""
        self.fake.device(f"virtual/{name}", number, dm__uuid=uuid, dm__name=f"rl-{name}")
        for device in below:
            self.fake.slave(name, device)
            holders = (self.fake.sys / "class/block" / device).resolve() / "holders"
            holders.mkdir(exist_ok=True)
            (holders / name).symlink_to((self.fake.sys / "class/block" / name).resolve())

    def survey(self) -> Disks:
        return survey(self.files, ["/nothing"])


@pytest.fixture
def machine(tmp_path: Path) -> OnLvm:
    fake = Machine(tmp_path)
    (tmp_path / "dev").mkdir()
    (fake.proc / "swaps").write_text("Filename Type Size Used Priority\n")
    files = MachineFiles(proc=fake.proc, sys=fake.sys, dev=tmp_path / "dev")
    made = OnLvm(fake, files)
    (fake.sys / "block").mkdir()
    for name in ("vda", "vdb"):
        (fake.sys / "block" / name).symlink_to(fake.sys / "devices/pci" / name)
    fake.device("pci/vda", "253:0", size="819200")
    fake.device("pci/vda/vda1", "253:1", partition="1", start="2048")
    fake.device("pci/vda/vda2", "253:2", partition="2", start="83968")
    fake.device("pci/vdb", "253:16", size="819200")
    made.mapped("dm-0", "252:0", f"LVM-{GROUP}{'r' * 32}", "vda2")
    fake.mount("252:0", "/", "xfs", "/dev/mapper/rl-root")
    fake.mount("253:1", "/boot", "ext4", "/dev/vda1")
    for name in ("vda", "vda1", "vdb"):
        made.put(name, bytes(MIB))
    made.put("vda2", physical_volume(VOLUMES[0], GROUP, VOLUMES[:1]))
    made.put("dm-0", bytes(MIB))
    return made


def test_a_system_on_a_logical_volume_is_on_its_disk(machine: OnLvm) -> None:
    found = system_position(machine.files)
    assert isinstance(found, DiskPosition)
    assert (found.device.name, found.partition.name, found.disk.name) == ("dm-0", "vda2", "vda")
    assert found.group == "012345-6789-abcd-efgh-ijkl-mnop-qrstuv"
    disks = machine.survey()
    assert (disks.refusals, disks.unknown) == ([], [])
    assert disks.target is not None
    assert disks.target.name == "vda"
    # What GRUB or the firmware reads is on a partition all the same.
    assert "not on a plain partition" in str(position_of(machine.files, "/"))


def test_other_volumes_of_its_group_are_named_as_lost(machine: OnLvm) -> None:
    machine.mapped("dm-1", "252:1", f"LVM-{GROUP}{'h' * 32}", "vda2")
    machine.fake.mount("252:1", "/home", "xfs", "/dev/mapper/rl-home")
    disks = machine.survey()
    assert disks.refusals == []
    assert "/home (xfs) is on the same disk and is lost." in disks.loses


def test_two_physical_volumes_on_the_same_disk_go_with_it(machine: OnLvm) -> None:
    machine.fake.device("pci/vda/vda3", "253:3", partition="3", start="400000")
    for number in (0, 1):
        content = physical_volume(VOLUMES[number], GROUP, VOLUMES[:2])
        machine.put(f"vda{number + 2}", content)
    assert machine.survey().refusals == []


def test_a_group_that_is_on_another_disk_as_well_is_refused(machine: OnLvm) -> None:
    machine.put("vda2", physical_volume(VOLUMES[0], GROUP, VOLUMES[:2]))
    (refusal,) = machine.survey().refusals
    assert "rl of the running system" in refusal
    assert "not on this disk" in refusal


def test_a_root_on_two_disks_is_refused(machine: OnLvm) -> None:
    machine.fake.slave("dm-0", "vdb")
    assert any("several disks" in refusal for refusal in machine.survey().refusals)


def test_another_group_on_the_same_disk_is_refused(machine: OnLvm) -> None:
    machine.fake.device("pci/vda/vda3", "253:3", partition="3", start="400000")
    machine.put("vda3", physical_volume(VOLUMES[2], OTHER, VOLUMES[2:]))
    (refusal,) = machine.survey().refusals
    assert "belongs to an LVM volume group" in refusal
    # Also while a volume of it is in use.
    machine.mapped("dm-1", "252:1", f"LVM-{OTHER}{'d' * 32}", "vda3")
    (refusal,) = machine.survey().refusals
    assert refusal.startswith("dm-1 is on")


def test_what_lies_on_a_volume_of_the_group_is_refused(machine: OnLvm) -> None:
    machine.mapped("dm-1", "252:1", f"LVM-{GROUP}{'h' * 32}", "vda2")
    machine.mapped("dm-2", "252:2", "CRYPT-LUKS2-x", "dm-1")
    (refusal,) = machine.survey().refusals
    assert "is on" in refusal


def test_an_encrypted_root_below_the_volume_is_refused(machine: OnLvm) -> None:
    machine.mapped("dm-5", "252:5", "CRYPT-LUKS2-x", "vda2")
    slaves = (machine.fake.sys / "class/block/dm-0").resolve() / "slaves"
    (slaves / "vda2").unlink()
    machine.fake.slave("dm-0", "dm-5")
    assert "mapped device (crypt)" in str(system_position(machine.files))


def test_a_root_of_data_on_a_volume_of_the_group_is_refused(machine: OnLvm, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    machine.mapped("dm-1", "252:1", f"LVM-{GROUP}{'d' * 32}", "vda2")
    machine.fake.mount("252:1", data, "xfs", "/dev/mapper/rl-data")
    refusals = survey(machine.files, [str(data)]).refusals
    assert any("the disk that would be written over" in refusal for refusal in refusals)


def test_what_cannot_be_read_is_not_known(machine: OnLvm) -> None:
    (machine.files.dev / "vda2").unlink()
    disks = machine.survey()
    assert (disks.refusals, len(disks.unknown)) == ([], 1)
