"""Disks that fail while the image is read, written or read back."""

from __future__ import annotations

from tests.vm.imager.arming import ROOT_SERIAL
from tests.vm.imager.baddisk import Faults, bad_disk
from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import MIB
from tests.vm.imager.machine import Drive, Running
from tests.vm.imager.rig import Rig


class Times:
    """Whether an access touches a place, for the first `times` times."""

    def __init__(self, place: int, times: int | None) -> None:
        self._place = place
        self._left = times

    def __call__(self, offset: int, length: int) -> bool:
        touched = offset <= self._place < offset + length
        if not touched or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True


def _run_on(machine: Rig, faults: Faults) -> Running:
    with bad_disk(machine.target, faults) as node:
        drives = machine.drives()
        drives[0] = Drive(machine.target, ROOT_SERIAL, node=node)
        return machine.run(machine.arm(), drives)


def _retries(done: Running, reason: str) -> int:
    return sum("must be finished: " in line and reason in line for line in done.said)


def test_writes_fail_for_a_while(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    faults = Faults(fails_writes=Times(21 * MIB, 2))
    done = _run_on(machine, faults)
    assert len(faults.failed) == 2
    assert _retries(done, "Input/output error") == 2, done.said
    machine.written(done)


def test_writes_are_lost(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    faults = Faults(loses_writes=Times(21 * MIB, 1))
    done = _run_on(machine, faults)
    assert len(faults.lost) == 1
    assert _retries(done, "reads back differently than it was written, at 22020096") == 1
    machine.written(done)


def test_the_first_mebibyte_is_lost(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    faults = Faults(loses_writes=Times(4096, 1))
    done = _run_on(machine, faults)
    assert len(faults.lost) == 1
    assert _retries(done, "the beginning of the disk reads back differently") == 1, done.said
    machine.written(done)


def test_a_place_fails_for_ever(rig: NewRig, staged: MakeData) -> None:
    """There is nothing to go back to: it keeps trying, and never reports success."""
    machine = rig()
    machine.put_data(staged())
    faults = Faults(loses_writes=Times(21 * MIB, None))
    with bad_disk(machine.target, faults) as node:
        drives = machine.drives()
        drives[0] = Drive(machine.target, ROOT_SERIAL, node=node)
        with machine.running(machine.arm(), drives) as running:
            running.on_console("trying again from the beginning in 4 s")
            running.cut_power()
    assert len(faults.lost) == 3
    machine.data_unchanged()
    # No partition table, neither of the old system nor of the new one.
    assert not any(machine.target.read_bytes()[:MIB])


def test_the_record_cannot_be_written(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    done = _run_on(machine, Faults(fails_writes=Times(machine.record_offset, None)))
    machine.refused(done, "writing /dev/vda at .*: Input/output error", recorded=False)


def test_the_target_cannot_be_read(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    done = _run_on(machine, Faults(fails_reads=Times(0, None)))
    machine.refused(done, "reading /dev/vda at 0: Input/output error")


def test_the_data_disk_cannot_be_read(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    data = machine.put_data(staged())
    content = machine.image.content.read_bytes()
    place = data.disks[0].read_bytes().index(content[6 * MIB :][:4096])
    with bad_disk(data.disks[0], Faults(fails_reads=Times(place, None))) as node:
        drives = machine.drives()
        drives[1] = Drive(data.disks[0], data.serials[0], node=node)
        done = machine.run(machine.arm(), drives)
    machine.refused(done, "Input/output error")


def test_the_data_disk_cannot_be_read_while_it_writes(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    data = machine.put_data(staged())
    content = machine.image.content.read_bytes()
    place = data.disks[0].read_bytes().index(content[6 * MIB :][:4096])
    reads = 0

    def second_and_third(offset: int, length: int) -> bool:
        nonlocal reads
        touched = offset <= place < offset + length
        reads += touched
        return touched and reads in (2, 3)

    faults = Faults(fails_reads=second_and_third)
    with bad_disk(data.disks[0], faults) as node:
        drives = machine.drives()
        drives[1] = Drive(data.disks[0], data.serials[0], node=node)
        done = machine.run(machine.arm(), drives)
    assert faults.failed
    assert _retries(done, "Input/output error") >= 1, done.said
    machine.written(done)
