"""Power cuts of a machine with a BIOS and an MBR, whose image is staged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.cuts.scenario import Kind
from tests.vm.cuts.stories import check

pytestmark = pytest.mark.long


def test_it_comes_back_by_itself(directory: Path) -> None:
    check(Kind("bios-mbr", "staged"), directory, (1, 2), seed=20261128)
