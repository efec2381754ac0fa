"""`python -m tests.simulation`: run random schedules of rolls; ends with 1 at a violation."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.invariants import ViolationError
from tests.simulation.schedules import Result, clean_fleet, run, schedule


def simulate(first: int, count: int) -> tuple[list[Result], list[str]]:
    """Run the schedules of some seeds in a row; return results and violations."""
    results, violations = [], []
    for seed in range(first, first + count):
        try:
            results.append(run(schedule(seed)))
        except ViolationError as error:
            violations.append(str(error))
    return results, violations


def measure(nodes: int, zones: int, per_zone: int) -> int:
    """Print how long a roll takes in which nothing goes wrong."""
    result = run(clean_fleet(nodes, zones, per_zone))
    waves = zones * -(-nodes // (zones * per_zone))
    print(
        f"{nodes} nodes in {zones} zones, {per_zone} at a time: {result.seconds / 3600:.2f} h; "
        f"{waves} waves of {result.seconds / waves / 60:.1f} minutes"
    )
    return 0


def main() -> int:
    """Run as many schedules as asked for, and print what happened in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--fleet", type=int, help="measure one clean roll of so many nodes")
    parser.add_argument("--zones", type=int, default=3)
    parser.add_argument("--per-zone", type=int, default=4)
    chosen = parser.parse_args()
    if chosen.fleet:
        return measure(chosen.fleet, chosen.zones, chosen.per_zone)
    began = time.monotonic()
    results, violations = simulate(chosen.seed, chosen.schedules)
    for violation in violations[:20]:
        print(f"VIOLATION {violation}")
    states: Counter[str] = Counter()
    for result in results:
        states.update(result.summary["states"])
    hours = sum(result.seconds for result in results) / 3600
    print(
        f"{chosen.schedules} schedules from seed {chosen.seed}: {len(violations)} violations; "
        f"{sum(result.kills for result in results)} kills of the controller, nodes ended as "
        f"{dict(states)}; {hours:.0f} simulated hours in {time.monotonic() - began:.0f} s"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
