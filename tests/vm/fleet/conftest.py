"""Six machines in three zones, switched on; each test has its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.vm.fleet.machines import Fleet, fleet_of
from tests.vm.image import CACHE
from tests.vm.reimage.installation import installed_disks, made_systems
from tests.vm.reimage.published import publishing


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Six machines with the old system."""
    made = made_systems()
    installed = installed_disks(made)
    with (
        publishing(made.packed) as published,
        fleet_of(made, installed, published, CACHE / f"fleet-{os.getpid()}") as fleet,
    ):
        yield fleet
