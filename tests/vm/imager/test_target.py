"""Which disk is written, and which one is not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.imager.arming import ROOT_SERIAL, DataDisk
from tests.vm.imager.builder import build
from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import MIB
from tests.vm.imager.machine import COMMAND_LINE, HURRIED, Drive
from tests.vm.imager.rig import Rig


def test_disks_are_named_in_another_order(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged("xfs", "raid0"))
    done = machine.run(machine.arm(), list(reversed(machine.drives())))
    machine.written(done)
    assert any(line.startswith("the target is /dev/vdc") for line in done.said)


def test_the_target_is_gone(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    done = machine.run(machine.arm(), machine.drives()[1:], options=HURRIED)
    machine.refused(done, "no disk is the one that was armed .*root-0001", recorded=False)


def test_the_target_has_another_serial_number(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    done = machine.run(machine.arm(), machine.drives(serial="root-0002"), options=HURRIED)
    machine.refused(done, "no disk is the one that was armed .*root-0001.*root-0002")


def test_the_target_begins_with_something_else(rig: NewRig, staged: MakeData) -> None:
    """As when an operator partitioned the disk anew in between."""
    machine = rig()
    machine.put_data(staged())
    initrd = machine.arm()
    with machine.target.open("r+b") as disk:
        disk.seek(300 << 10)
        disk.write(b"x")
    machine.refused(machine.run(initrd), "no disk is the one that was armed")


def test_two_disks_have_the_serial_number(rig: NewRig, staged: MakeData, old: Path) -> None:
    machine = rig()
    machine.put_data(staged())
    other = machine.directory / "other.raw"
    with other.open("wb") as file:
        file.truncate(old.stat().st_size)
    drives = [Drive(other, ROOT_SERIAL), *machine.drives()]
    done = machine.run(machine.arm(), drives)
    machine.written(done)
    assert other.read_bytes() == bytes(old.stat().st_size)
    assert any(line.startswith("the target is /dev/vdb") for line in done.said)


def test_there_is_a_copy_of_the_target(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    other = machine.directory / "other.raw"
    subprocess.run(("cp", "--sparse=always", machine.target, other), check=True)
    drives = [*machine.drives(), Drive(other, ROOT_SERIAL)]
    machine.refused(machine.run(machine.arm(), drives), "several disks look like the one")
    # It reports that on both: either may boot.
    assert f"the reason is in the outcome record on /dev/vdc (serial {ROOT_SERIAL}" in " ".join(
        machine.last.said
    )


def test_the_target_is_a_data_disk(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    named = [DataDisk(ROOT_SERIAL, machine.target.stat().st_size)]
    machine.refused(
        machine.run(machine.arm(data_disks=named)), "is a data disk; it is never written to"
    )


def test_the_whole_target_is_in_an_array(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    make = """
    mdadm --create /dev/md/data --run --quiet --metadata=1.0 --level=1 --raid-devices=2 \
        /dev/vda missing
    mdadm --stop --quiet /dev/md/data
    """
    build(machine.kernel, [machine.target], make, machine.directory, machine.image.content)
    machine.refused(machine.run(machine.arm()), "the whole of /dev/vda .* a member of the array")


# As cryptsetup and pvcreate begin theirs: LUKS1's header, and LVM2's label in the second sector.
_LUKS = b"LUKS\xba\xbe\x00\x01aes".ljust(592, b"\0")
_LVM = bytes(512) + b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("what", "offset", "content"),
    [
        ("the whole of /dev/vda .* is a LUKS volume", 0, _LUKS),
        ("the whole of /dev/vda .* is an LVM physical volume", 0, _LVM),
        ("/dev/vda1 is a LUKS volume", MIB, _LUKS),
        ("/dev/vda1 is an LVM physical volume", MIB, _LVM),
    ],
    ids=["luks", "lvm", "luks-partition", "lvm-partition"],
)
def test_the_target_holds_something_else(
    rig: NewRig, staged: MakeData, what: str, offset: int, content: bytes
) -> None:
    machine = rig()
    machine.put_data(staged())
    with machine.target.open("r+b") as disk:
        disk.seek(offset)
        disk.write(content)
    machine.refused(machine.run(machine.arm()), what)


def test_the_target_is_read_only(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    file = f"file.driver=file,file.filename={machine.target}"
    node = f"driver=raw,node-name={{name}},read-only=on,{file}"
    drives = machine.drives()
    drives[0] = Drive(machine.target, ROOT_SERIAL, node=("-blockdev", node))
    done = machine.run(machine.arm(), drives)
    machine.refused(done, "writing /dev/vda .*: Operation not permitted", recorded=False)


class TestTheArming:
    @pytest.fixture
    def machine(self, rig: NewRig, staged: MakeData) -> Rig:
        machine = rig()
        machine.put_data(staged())
        return machine

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ("", "command line does not name an arming"),
            ("holdfast.nonce=" + "0" * 32, "entry is of another arming than the job"),
        ],
        ids=["none", "another"],
    )
    def test_the_nonce_of_the_entry(self, machine: Rig, words: str, reason: str) -> None:
        line = f"{COMMAND_LINE.rpartition(' ')[0]} {words}"
        machine.refused(machine.run(machine.arm(), command_line=line), reason)

    def test_the_record_is_of_another_arming(self, machine: Rig) -> None:
        """An initramfs and an entry that were left from an earlier arming, booted by hand."""
        initrd = machine.arm(change=lambda job: job.update(nonce="f" * 32))
        line = f"{COMMAND_LINE.rpartition(' ')[0]} holdfast.nonce={'f' * 32}"
        done = machine.run(initrd, command_line=line)
        machine.refused(done, "outcome record on the target is of another arming", recorded=False)

    def test_it_is_booted_twice(self, machine: Rig, old: Path) -> None:
        initrd = machine.arm(change=lambda job: job.update(descriptor_sha256="0" * 64))
        machine.refused(machine.run(initrd), "the descriptor is not the one")
        # Now all is well, but it was started before.
        done = machine.run(machine.arm(armed_as=old))
        _nothing_was_done(machine, done.said)


def _nothing_was_done(machine: Rig, said: Sequence[str]) -> None:
    assert said[-1] == (
        "this was started before with the same arming; nothing is done, rebooting"
    ), said
    machine.nothing_changed()
