"""Resets, power cuts and panics: what is on the disks then, and what another boot does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.vm.imager.arming import ROOT_SERIAL
from tests.vm.imager.baddisk import Faults, bad_disk
from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import MIB, NONCE, Image, file_of
from tests.vm.imager.machine import COMMAND_LINE, Drive
from tests.vm.imager.rig import Rig
from tests.vm.reimage.disks import in_own_mounts

_TOO_LITTLE_MIB = 80
"""The kernel starts, and has no memory for the initramfs."""


def _is_as_started(machine: Rig) -> None:
    """Nothing happened but that it was started: this is what the old system finds."""
    machine.only_the_record_changed()
    record = machine.record
    assert (record.state, record.started, record.reason) == ("started", 1, None)


def _is_not_begun_again(machine: Rig, initrd: Path) -> None:
    done = machine.run(initrd)
    assert done.said[-1].startswith("this was started before with the same arming"), done.said
    machine.nothing_changed()


def test_a_reset_before_the_first_write(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    initrd = machine.arm()
    with machine.running(initrd) as running:
        running.on_console("the image is bare")
        running.qmp.ask("system_reset")  # with which it ends here
        running.rebooted()
    _is_as_started(machine)
    _is_not_begun_again(machine, initrd)


def test_a_power_cut_half_way_through_the_write(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    initrd = machine.arm()
    faults = Faults(reach_bytes=40 * MIB)
    with bad_disk(machine.target, faults) as node:
        drives = machine.drives()
        drives[0] = Drive(machine.target, ROOT_SERIAL, node=node)
        with machine.running(initrd, drives) as running:
            assert faults.reached.wait(240), running.console
            running.cut_power()
    machine.data_unchanged()
    half = machine.target.read_bytes()
    # Nor is it the old one's: that could have the same layout, and boot what is half there.
    assert not any(half[:MIB]), "the disk looks like a system before it is one"
    assert half != machine.before
    # Whatever boots the imager once more, there is nothing that it would continue.
    machine.refused(machine.run(initrd), "no disk is the one that was armed", recorded=False)


def test_the_kernel_panics(rig: NewRig, staged: MakeData) -> None:
    machine = rig()
    machine.put_data(staged())
    initrd = machine.arm()
    line = f"{COMMAND_LINE} unknown_nmi_panic=1"
    with machine.running(initrd, command_line=line) as running:
        running.on_console("the image is bare")
        running.qmp.ask("inject-nmi")
        running.on_console("Kernel panic - not syncing: NMI")
        running.rebooted()
    _is_as_started(machine)
    _is_not_begun_again(machine, initrd)


def test_there_is_too_little_memory(rig: NewRig, staged: MakeData) -> None:
    """The kernel panics before anything is done, and reboots by itself."""
    machine = rig()
    machine.put_data(staged())
    with machine.running(machine.arm(), memory_mib=_TOO_LITTLE_MIB) as running:
        running.rebooted()
    assert "Kernel panic" in running.console, running.console
    machine.nothing_changed()


def test_the_new_system_knows_no_holdfast(rig: NewRig, staged: MakeData, system: Image) -> None:
    machine = rig(system)
    machine.put_data(staged("ext4", holding=system))
    identity = {
        "remove": ["/etc/ssh/ssh_host_*"],
        "directories": [
            {"path": "/etc/ssh", "mode": 0o755, "uid": 0, "gid": 0, "user": "root", "group": "root"}
        ],
        "files": [
            {
                "path": "/etc/hostname",
                "mode": 0o644,
                "uid": 0,
                "gid": 0,
                "user": "root",
                "group": "root",
                "content": "bm9kZS03Cg==",
            }
        ],
    }
    done = machine.run(machine.arm(identity=identity))
    assert "the new system is on the disk; rebooting into it" in done.said, done.said
    machine.data_unchanged()
    marker = json.loads(file_of(machine.target, "/etc/holdfast/reimaged.json"))
    assert marker["nonce"] == NONCE
    carried = marker["identity"]
    assert (carried["carried"], carried["problems"]) == (["/etc/hostname"], [])
    assert carried["files"][0]["sha256"] == hashlib.sha256(b"node-7\n").hexdigest()
    assert file_of(machine.target, "/etc/hostname") == "node-7\n"
    # All else of the file system is whole, and as the image has it.
    in_own_mounts('for disk in "$@"; do e2fsck -f -n "$disk?offset=1048576"; done', machine.target)
