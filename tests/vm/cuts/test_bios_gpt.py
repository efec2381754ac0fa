"""Power cuts of a machine with a BIOS and a GPT, whose image comes over the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.cuts.scenario import Kind
from tests.vm.cuts.stories import check

pytestmark = pytest.mark.long


def test_it_comes_back_by_itself(directory: Path) -> None:
    check(Kind("bios-gpt", "network"), directory, (1, 2), seed=20261129)
