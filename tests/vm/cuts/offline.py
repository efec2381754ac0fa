"""Judges every state of a recorded boot of the imager."""

from __future__ import annotations

from pathlib import Path

from tests.oracles.powerloss.sectors import Contents
from tests.oracles.powerloss.states import Report, check, epochs, replayed
from tests.vm.cuts.scenario import Scenario


def judged(
    scenario: Scenario, log: Path, before: Path, *, states: int, resumed: bool = False
) -> Report:
    """Judge about `states` states of a log that began with the disk `before`, and ended well."""
    contents = Contents()
    first = contents.numbers(before.read_bytes())
    changes = epochs(log, contents)
    scene = scenario.scene(contents, first, replayed(first, changes), resumed=resumed)
    return check(scene, changes, contents, states=states)
