"""A few cuts of one machine, for tests that everybody runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tests.vm.cuts.cutting import Machine, first_run, story, undisturbed
from tests.vm.cuts.offline import judged
from tests.vm.cuts.scenario import Kind, scenario
from tests.vm.reimage.telling import tell

STATES = 10_000


def check(kind: Kind, directory: Path, cuts: Sequence[int], seed: int) -> None:
    """Judge a recorded run, then cut the power of one machine after the other."""
    with scenario(kind, directory / "scenario") as armed:
        run = undisturbed(first_run(armed, directory / "first"))
        report = judged(armed, run.log, armed.armed, states=STATES)
        tell(f"{kind}: {report}")
        assert set(report.verdicts) == {"old", "lifeboat", "new"}, "\n".join(report.dead)
        for number, count in enumerate(cuts):
            machine = Machine(armed, directory / f"story{number}", random.Random(seed + number))
            story(machine, run, count, boot_new=number == 0)
            tell("; ".join(machine.history))
