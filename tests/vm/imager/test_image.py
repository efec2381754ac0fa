"""What is wrong with a staged image, and with what holds it."""

from __future__ import annotations

import pytest

from tests.vm.imager.conftest import MakeData, NewRig


@pytest.mark.parametrize("where", [("ext4",), ("xfs", "raid0")], ids="-".join)
def test_nothing_is_wrong(rig: NewRig, staged: MakeData, where: tuple[str, ...]) -> None:
    machine = rig()
    machine.put_data(staged(*where))
    machine.written(machine.run(machine.arm(), machine.drives(nvme=True)))
