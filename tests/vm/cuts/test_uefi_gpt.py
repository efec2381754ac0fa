"""Power cuts of a machine with UEFI and a GPT, whose image is staged."""

from __future__ import annotations

from pathlib import Path

from tests.vm.cuts.scenario import Kind
from tests.vm.cuts.stories import check


def test_it_comes_back_by_itself(directory: Path) -> None:
    check(Kind("uefi-gpt", "staged"), directory, (1, 2), seed=20261130)
