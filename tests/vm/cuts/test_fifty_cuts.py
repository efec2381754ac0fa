"""Fifty power cuts of machines of all kinds, and every state of their recorded writes."""

from __future__ import annotations

from pathlib import Path

from tests.vm.cuts.campaign import Campaign
from tests.vm.reimage.telling import tell


def test_machines_come_back_by_themselves(directory: Path) -> None:
    campaign = Campaign(directory, states=100_000)
    campaign.run(50, jobs=2)
    tell(campaign.results.summary())
    assert not campaign.results.failed, campaign.results.failed
