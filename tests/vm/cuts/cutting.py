"""Runs a machine whose writes are recorded, cuts its power, and lets it come back by itself."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.oracles.powerloss.power_cut import cut
from tests.oracles.powerloss.sectors import SECTOR, Extent
from tests.oracles.powerloss.writelog import entries, writes
from tests.vm.cuts.scenario import DATA_SERIAL, ROOT_SERIAL, Scenario, root_of
from tests.vm.cuts.systems import ROOT_AT
from tests.vm.imager.baddisk import Faults, bad_disk
from tests.vm.imager.images import NONCE, file_of
from tests.vm.imager.machine import (
    PROCESSORS,
    Drive,
    Running,
    firmware_options,
    running,
)
from tests.vm.pace import patience
from tests.vm.reimage.firmware import OVMF

Booted = Literal["old", "lifeboat", "new"]

_MEMORY_MIB = {"bios": 224, "uefi": 384}
_SECONDS = 150.0
_IMAGER = r"holdfast-imager: the disk boots the lifeboat; resuming"
_SYSTEMS: dict[str, Booted] = {
    "the old system is up": "old",
    "the new system is up": "new",
    _IMAGER: "lifeboat",
}
_DONE = "the new system is on the disk; rebooting into it"


class CutError(AssertionError):
    """A machine did not come back by itself."""


def log_options(path: Path, log: Path) -> Sequence[str]:
    """Return QEMU's options for a disk whose writes and flushes are logged."""
    log.write_bytes(b"")
    return (
        "-blockdev",
        f"driver=file,node-name={{name}}-file,filename={path}",
        "-blockdev",
        f"driver=file,node-name={{name}}-log,filename={log}",
        "-blockdev",
        "driver=blklogwrites,node-name={name},file={name}-file,log={name}-log,"
        "log-sector-size=512,log-super-update-interval=1",
    )


@dataclass
class Machine:
    """One machine through its cuts; its disks are copies."""

    scenario: Scenario
    directory: Path
    choose: random.Random
    history: list[str] = field(default_factory=list)
    cuts: int = 0
    boots: int = 0

    def __post_init__(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.disk = _copied(self.scenario.armed, self.directory / "disk.raw")
        data = self.scenario.data
        self._data = None if data is None else _copied(data, self.directory / "data.raw")

    @property
    def log(self) -> Path:
        """What was written since it was switched on last."""
        return self.directory / "writes.log"

    @contextmanager
    def on(
        self, *, by_loader: bool = False, faults: Faults | None = None, **options: Any
    ) -> Iterator[Running]:
        """Switch it on; `by_loader` as the armed system's boot loader would start the imager.

        Its writes go to a copy and to the log; `keep` takes them over, and `cut_after` a part.
        With `faults` there is no log.
        """
        self._written = _copied(self.disk, self.directory / "written.raw")
        with self._running(self._written, by_loader, faults, options) as machine:
            yield machine

    @contextmanager
    def _running(
        self, disk: Path, by_loader: bool, faults: Faults | None, options: dict[str, Any]
    ) -> Iterator[Running]:
        if faults is None:
            node: AbstractContextManager[Sequence[str]] = nullcontext(log_options(disk, self.log))
        else:
            node = bad_disk(disk, faults)
        with node as how, self._switched_on(how, by_loader, options) as machine:
            yield machine

    @contextmanager
    def _switched_on(
        self, node: Sequence[str], by_loader: bool, options: dict[str, Any]
    ) -> Iterator[Running]:
        processors = options.pop("processors", PROCESSORS)
        drives = [Drive(self.disk, ROOT_SERIAL, node=node)]
        if self._data is not None:
            drives.append(Drive(self._data, DATA_SERIAL))
        code = self.scenario.kernel.path if by_loader else None
        initrd = self.scenario.initramfs if by_loader else None
        self.boots += 1
        with running(
            code,
            initrd,
            drives,
            self.directory / "run",
            network=self.scenario.network,
            memory_mib=_MEMORY_MIB["uefi" if self.scenario.kind.uefi else "bios"],
            options=(*processors, *self._firmware(by_loader=by_loader)),
            **options,
        ) as machine:
            yield machine

    def _firmware(self, *, by_loader: bool) -> Sequence[str]:
        """Return QEMU's options for its firmware, whose variables are as in a new machine."""
        if by_loader or not self.scenario.kind.uefi:
            return ()
        return firmware_options(_copied(OVMF.variables, self.directory / "variables.fd"))

    def keep(self) -> None:
        """Take over all that was written."""
        self._written.replace(self.disk)

    def cut_after(self, entry: int) -> None:
        """Cut the power after a number of entries of the log."""
        self.cuts += 1
        self.history.append(f"cut: {cut(self.log, self.disk, entry, self.choose)}")

    def cut_in(self, run: Undisturbed) -> None:
        """Cut the power at some instant of a boot that would have been the same as this one."""
        shutil.copy(run.log, self.log)
        self.cut_after(instant(run, self.choose))

    def booted(self, machine: Running) -> Booted:
        """Wait until it is clear what the firmware booted."""
        found = machine.on_console("|".join(_SYSTEMS), _SECONDS)
        what = next(what for pattern, what in _SYSTEMS.items() if re.search(pattern, found))
        self.history.append(f"booted: {what}")
        return what

    def data_are_unchanged(self) -> None:
        """Check the data disk, byte for byte."""
        original = self.scenario.data
        if original is not None and self._data is not None:
            assert original.read_bytes() == self._data.read_bytes(), "the data disk was written to"

    def old_is_whole(self) -> None:
        """Check that the disk is as it was armed, but for what arming owns."""
        own = (self.scenario.record, self.scenario.region)
        _same(self.scenario.armed, self.disk, own, "the old system")

    def new_is_whole(self, final: Path) -> None:
        """Check that the new system is complete; `final` is the disk of an undisturbed run."""
        root = Extent.of_bytes(ROOT_AT, self.scenario.region.begin * SECTOR - ROOT_AT)
        _same(final, self.disk, (root, self.scenario.region), "the new system")
        check = ("e2fsck", "-f", "-n", root_of(self.disk))
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert NONCE in file_of_root(self.disk, "/etc/holdfast/reimaged.json")
        assert file_of_root(self.disk, "/etc/os-release") == "ID=new\n"
        assert file_of_root(self.disk, "/sbin/init") == "none"
        self.data_are_unchanged()

    def remove(self) -> None:
        """Remove its disks."""
        shutil.rmtree(self.directory)


def file_of_root(disk: Path, path: str) -> str:
    """Return a text file of a disk's root."""
    return file_of(disk, path, offset=ROOT_AT)


def first_run(scenario: Scenario, directory: Path) -> Machine:
    """Let a machine be re-imaged undisturbed; its log is that of the imager's first boot."""
    machine = Machine(scenario, directory, random.Random(0))
    with machine.on(by_loader=True) as imager:
        imager.rebooted(_SECONDS)
        assert _DONE in imager.said, imager.console[-3000:]
    machine.keep()
    return machine


@dataclass
class Undisturbed:
    """A first run, of which cuts are made by replaying its log."""

    log: Path
    final: Path
    entries: int
    flushes: Sequence[int]


def undisturbed(machine: Machine) -> Undisturbed:
    """Return what a first run recorded, and check that it left the new system."""
    flushes = [number for number, write in enumerate(writes(machine.log)) if write.flush]
    machine.new_is_whole(machine.disk)
    return Undisturbed(machine.log, machine.disk, entries(machine.log), flushes)


def instant(run: Undisturbed, choose: random.Random) -> int:
    """Choose when to cut: anywhere, or near a flush, where the order matters most."""
    if choose.random() < 0.5:
        return choose.randrange(run.entries + 1)
    near = choose.choice(run.flushes) + choose.randrange(-2, 4)
    return min(max(near, 0), run.entries)


def story(machine: Machine, run: Undisturbed, cuts: int, *, boot_new: bool) -> None:
    """Cut a machine's power several times, then leave it alone until it is the new system.

    Raises `CutError`, with its history, if it does not become that.
    """
    try:
        _story(machine, run, cuts, boot_new=boot_new)
    except (AssertionError, TimeoutError) as error:
        raise CutError(f"{'; '.join(machine.history)}: {error}") from error


def _story(machine: Machine, run: Undisturbed, cuts: int, *, boot_new: bool) -> None:
    # The first boot is the same each time: what a cut leaves of it is made from its log.
    machine.cut_in(run)
    by_loader = False
    for _ in range(2 * cuts + 4):
        with machine.on(by_loader=by_loader) as running_machine:
            booted = "imager" if by_loader else machine.booted(running_machine)
            if booted == "new":
                running_machine.rebooted(_SECONDS)
            elif booted == "old":
                running_machine.rebooted(_SECONDS)
                machine.old_is_whole()
                # The operator arms it again; what that leaves is what it left before.
                _copied(machine.scenario.armed, machine.disk)
                by_loader = True
                continue
            elif machine.cuts < cuts and _reached(
                machine, running_machine, instant(run, machine.choose)
            ):
                by_loader = False
                continue
            else:
                running_machine.rebooted(_SECONDS)
                assert _DONE in running_machine.said, running_machine.console[-2000:]
        by_loader = False
        if booted != "new":
            machine.keep()
            machine.history.append("written")
        machine.new_is_whole(run.final)
        if booted == "new" or not boot_new:
            return
    raise AssertionError("it is never done")


def _reached(machine: Machine, running_machine: Running, entry: int) -> bool:
    """Cut the power once the log has a number of entries; whether that was before the end."""
    deadline = time.monotonic() + patience(_SECONDS)
    while entries(machine.log) < entry:
        if running_machine.ended:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come to entry {entry}: {running_machine.console}")
        time.sleep(0.01)
    running_machine.cut_power()
    machine.cut_after(entry)
    return True


def _copied(source: Path, target: Path) -> Path:
    subprocess.run(("cp", "--sparse=always", source, target), check=True)
    return target


def _same(wanted: Path, found: Path, but: Sequence[Extent], what: str) -> None:
    """Check that two disks are the same but for some extents."""
    one, other = bytearray(wanted.read_bytes()), bytearray(found.read_bytes())
    assert len(one) == len(other)
    for extent in but:
        begin, end = extent.begin * SECTOR, extent.end * SECTOR
        one[begin:end] = other[begin:end] = bytes(end - begin)
    if one != other:
        at = next(
            at for at in range(0, len(one), SECTOR) if one[at:][:SECTOR] != other[at:][:SECTOR]
        )
        raise AssertionError(f"{what} is not whole: the sector at {at} differs")
