"""A panic, a hang and a storm of errors while the disk is written: each ends in a reset."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracles.powerloss.writelog import entries
from tests.support.waiting import until
from tests.vm.cuts.cutting import Machine, Undisturbed, first_run, undisturbed
from tests.vm.cuts.hang import hang, options
from tests.vm.cuts.kernel import GENERIC, small_kernel
from tests.vm.cuts.scenario import Kind, Scenario, scenario
from tests.vm.image import CACHE
from tests.vm.imager.baddisk import Faults
from tests.vm.imager.images import MIB
from tests.vm.imager.machine import COMMAND_LINE, HURRIED

_PATIENCE = 900.0
_HALF_WAY = 12 * MIB


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """One armed machine for all of them."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with scenario(Kind("bios-gpt", "staged"), tmp_path_factory.mktemp("resets") / "armed") as one:
        yield one


@pytest.fixture(scope="module")
def undisturbed_run(armed: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What it becomes if nothing happens."""
    return undisturbed(first_run(armed, tmp_path_factory.mktemp("resets") / "first"))


@pytest.fixture
def machine(armed: Scenario, directory: Path) -> Machine:
    """The machine, before anything was written."""
    return Machine(armed, directory / "machine", random.Random(0))


def _comes_back(machine: Machine, run: Undisturbed) -> None:
    """A reset loses nothing of the disk's cache; left alone it becomes the new system."""
    machine.keep()
    with machine.on() as running:
        assert machine.booted(running) == "lifeboat"
        running.rebooted()
    machine.keep()
    machine.new_is_whole(run.final)


def test_the_kernel_panics(machine: Machine, undisturbed_run: Undisturbed) -> None:
    line = f"{COMMAND_LINE} unknown_nmi_panic=1"
    half = undisturbed_run.entries // 4
    with machine.on(by_loader=True, command_line=line) as running:
        until(lambda: entries(machine.log) > half, seconds=_PATIENCE, what="half of the writes")
        running.qmp.ask("inject-nmi")
        running.on_console("Kernel panic - not syncing: NMI")
        running.rebooted()
    _comes_back(machine, undisturbed_run)


def test_the_processor_hangs(directory: Path) -> None:
    code = small_kernel(package=GENERIC, more=("i6300esb",))
    port = directory / "gdb"
    hardware = ("-device", "i6300esb", "-action", "watchdog=reset")
    processors = ("-smp", "1", "-accel", "tcg", *hardware, *options(port))
    kind = Kind("bios-gpt", "staged")
    with scenario(kind, directory / "armed", code, watchdog=True) as armed:
        run = undisturbed(first_run(armed, directory / "first"))
        machine = Machine(armed, directory / "machine", random.Random(0))
        half = run.entries // 2
        with machine.on(by_loader=True, processors=processors) as running:
            running.on_console(r"the hardware watchdog resets this machine \d+ s after it hangs")
            until(lambda: entries(machine.log) > half, seconds=_PATIENCE, what="half of the writes")
            hang(port)
            printed = running.console
            running.rebooted(_PATIENCE)
            assert running.console == printed, "it did not hang"
        _comes_back(machine, run)


def test_the_disk_never_answers(machine: Machine, undisturbed_run: Undisturbed) -> None:
    faults = Faults(reach_bytes=_HALF_WAY)
    with machine.on(by_loader=True, faults=faults, processors=HURRIED) as running:
        assert faults.reached.wait(_PATIENCE), running.console
        running.on_console(r"nothing happened for \d+ s; resetting", _PATIENCE)
        running.on_console("sysrq: Resetting")
        # QEMU itself waits for the disk's answer before it resets the machine.
        running.cut_power()
    _comes_back(machine, undisturbed_run)


def test_every_write_fails(machine: Machine, undisturbed_run: Undisturbed) -> None:
    faults = Faults()
    faults.fails_writes = lambda offset, length: faults.bytes_written > _HALF_WAY
    with machine.on(by_loader=True, faults=faults, processors=HURRIED) as running:
        running.on_console(r"nothing but faults for \d+ minutes", _PATIENCE)
        running.rebooted()
    assert len(faults.failed) > 3
    _comes_back(machine, undisturbed_run)
