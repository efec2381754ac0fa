"""The checker of power cuts: no dead state of the right order, and some of each wrong one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks.grub import MODULES
from tests.support.disks.powerloss import (
    DISK_BYTES,
    IMAGE_BYTES,
    MIB,
    Boat,
    Reimaging,
    Step,
    backup_of,
    bios_boat,
    gpt_disk,
    uefi_boat,
)

STATES = 600

pytestmark = pytest.mark.skipif(
    shutil.which("grub-mkimage") is None or not MODULES.is_dir() or shutil.which("mcopy") is None,
    reason="grub-mkimage, GRUB's modules for a BIOS (grub-pc-bin) or mtools is missing",
)


def _mbr_disk(seed: int, size: int) -> bytes:
    disk = random.Random(seed).randbytes(size)
    return disk[:510] + b"\x55\xaa" + disk[512:]


_boats: dict[str, Boat] = {}
"""A test changes none of them."""


def bios(_: Path) -> Reimaging:
    old, image = _mbr_disk(11, DISK_BYTES), _mbr_disk(12, IMAGE_BYTES)
    return Reimaging(old, image, bytes(MIB), _kept("bios", lambda: bios_boat(old)))


def bios_gpt(_: Path) -> Reimaging:
    old, image, tail = _gpt_disks()
    return Reimaging(old, image, tail, _kept("gpt", lambda: bios_boat(old)))


def uefi(directory: Path) -> Reimaging:
    old, image, tail = _gpt_disks()
    return Reimaging(old, image, tail, _kept("uefi", lambda: uefi_boat(directory, old)))


def _kept(name: str, make: Callable[[], Boat]) -> Boat:
    if name not in _boats:
        _boats[name] = make()
    return _boats[name]


def _gpt_disks() -> tuple[bytes, bytes, bytes]:
    old, image = bytearray(gpt_disk(13, DISK_BYTES)), gpt_disk(14, IMAGE_BYTES)
    old[-33 * 512 :] = b"".join(backup_of(bytes(old)))
    return bytes(old), image, b"".join(backup_of(image))


KINDS = (bios, bios_gpt, uefi)
Faulty = Callable[[Reimaging], list[Step]]


def _moved(steps: list[Step], name: str, before: str) -> list[Step]:
    """Let one step be taken before another."""
    moved = next(step for step in steps if step.__name__ == name)
    rest = [step for step in steps if step.__name__ != name]
    at = next(place for place, step in enumerate(rest) if step.__name__ == before)
    return [*rest[:at], moved, *rest[at:]]


def _unflushed(steps: list[Step], name: str) -> list[Step]:
    """Leave out the flush behind a step."""
    at = next(place for place, step in enumerate(steps) if step.__name__ == name)
    return [*steps[: at + 1], *steps[at + 2 :]]


def _instead(steps: list[Step], name: str, other: Step) -> list[Step]:
    return [other if step.__name__ == name else step for step in steps]


def lifeboat_in_the_epoch_of_switch_1(work: Reimaging) -> list[Step]:
    work.without_lifeboat()
    return [work.lifeboat, *work.right_order()[2:]]


def switch_1_is_not_flushed(work: Reimaging) -> list[Step]:
    return _unflushed(work.right_order(), "switch_1")


def head_cleared_before_switch_1(work: Reimaging) -> list[Step]:
    return _moved(work.right_order(), "clear_head", "switch_1")


def data_before_switch_1(work: Reimaging) -> list[Step]:
    return _moved(work.right_order(), "data", "switch_1")


def switch_sector_cleared_with_the_head(work: Reimaging) -> list[Step]:
    return _instead(work.right_order(), "clear_head", work.clear_all_of_the_head)


def write_into_the_region(work: Reimaging) -> list[Step]:
    steps = work.right_order()
    at = steps.index(work.data)
    return [*steps[:at], work.into_the_region, *steps[at:]]


def data_are_not_flushed_before_switch_2(work: Reimaging) -> list[Step]:
    return _unflushed(_unflushed(work.right_order(), "data"), "head")


def head_is_not_flushed_before_switch_2(work: Reimaging) -> list[Step]:
    return _unflushed(work.right_order(), "head")


def switch_2_before_the_data(work: Reimaging) -> list[Step]:
    return _moved(work.right_order(), "switch_2", "data")


def switch_2_with_the_head_in_one_write(work: Reimaging) -> list[Step]:
    return _instead(work.right_order(), "head", work.all_of_the_head)


def wiped_before_switch_2_is_flushed(work: Reimaging) -> list[Step]:
    return _unflushed(work.right_order(), "switch_2")


def wiped_before_switch_2(work: Reimaging) -> list[Step]:
    return _moved(work.right_order(), "wipe", "switch_2")


FAULTS = (
    lifeboat_in_the_epoch_of_switch_1,
    switch_1_is_not_flushed,
    head_cleared_before_switch_1,
    data_before_switch_1,
    switch_sector_cleared_with_the_head,
    write_into_the_region,
    data_are_not_flushed_before_switch_2,
    head_is_not_flushed_before_switch_2,
    switch_2_before_the_data,
    switch_2_with_the_head_in_one_write,
    wiped_before_switch_2_is_flushed,
    wiped_before_switch_2,
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_of_the_right_order_is_dead(
    kind: Callable[[Path], Reimaging], tmp_path: Path
) -> None:
    work = kind(tmp_path)
    report = work.judged(work.right_order(), tmp_path, 4 * STATES)
    assert set(report.verdicts) == {"old", "lifeboat", "new"}, report.dead
    assert report.states >= 3 * STATES, report


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [bios_gpt, uefi])
def test_a_fault_in_the_order_is_found(
    kind: Callable[[Path], Reimaging], fault: Faulty, tmp_path: Path
) -> None:
    work = kind(tmp_path)
    report = work.judged(fault(work), tmp_path, STATES)
    assert report.verdicts["dead"], report


def test_firmware_that_writes_the_missing_backup_destroys_what_is_there(tmp_path: Path) -> None:
    old, image, tail = _gpt_disks()
    work = Reimaging(old, image, tail, uefi_boat(tmp_path, old, with_backup=False))
    report = work.judged(work.right_order(), tmp_path, STATES)
    assert report.verdicts["dead"], report
    assert all("the lifeboat's initramfs is not whole" in reason for reason in report.dead), (
        report.dead
    )
