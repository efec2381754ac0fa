"""A soak of half a minute; `make soak` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import soak

pytestmark = pytest.mark.alone


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_honest_clients_are_served_among_hostile_ones(tmp_path: Path) -> None:
    report = soak(tmp_path, 25, connections=600, watchdog_limit=8)
    assert not report.problems, str(report)
