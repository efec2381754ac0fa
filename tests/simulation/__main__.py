"""`python -m tests.simulation`: run random schedules of rolls; ends with 1 at a violation."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.invariants import ViolationError
from tests.simulation.schedules import Result, clean_fleet, run, schedule

EACH = 250
"""How many schedules a process runs in a row; after each, a line is printed."""


def simulate(first: int, count: int) -> tuple[list[Result], list[str]]:
    """Run the schedules of some seeds in a row; return results and violations."""
    results, violations = [], []
    for seed in range(first, first + count):
        try:
            results.append(run(schedule(seed)))
        except ViolationError as error:
            violations.append(str(error))
    return results, violations


def simulate_in_processes(first: int, count: int, jobs: int) -> tuple[list[Result], list[str]]:
    """Do what `simulate` does in some processes, and print how far it is."""
    firsts = range(first, first + count, EACH)
    counts = [min(EACH, first + count - each) for each in firsts]
    results, violations = [], []
    with ProcessPoolExecutor(jobs) as processes:
        for some_results, some_violations in processes.map(simulate, firsts, counts):
            results += some_results
            violations += some_violations
            print(f"{len(results)} schedules, {len(violations)} violations", flush=True)
    return results, violations


def kills_by_moment(results: Iterable[Result]) -> str:
    """Return how often the controller was killed, and around which call least often."""
    kills: Counter[tuple[str, str]] = Counter()
    for result in results:
        kills.update(result.kills)
    if not kills:
        return "no kills of the controller"
    (call, moment), fewest = min(kills.items(), key=lambda item: item[1])
    calls = len({call for call, _ in kills})
    return (
        f"{kills.total()} kills of the controller, at {len(kills)} moments of {calls} kinds of "
        f"call (fewest: {fewest}, {call}, {moment})"
    )


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--fleet", type=int, help="measure one clean roll of that number of nodes")
    parser.add_argument("--zones", type=int, default=3)
    parser.add_argument("--per-zone", type=int, default=4)
    chosen = parser.parse_args()
    if chosen.fleet:
        return measure(chosen.fleet, chosen.zones, chosen.per_zone)
    began = time.monotonic()
    results, violations = simulate_in_processes(chosen.seed, chosen.schedules, chosen.jobs)
    for violation in violations[:20]:
        print(f"VIOLATION {violation}")
    states: Counter[str] = Counter()
    for result in results:
        states.update(result.summary["states"])
    hours = sum(result.seconds for result in results) / 3600
    print(
        f"{chosen.schedules} schedules from seed {chosen.seed}: {len(violations)} violations; "
        f"{kills_by_moment(results)}; nodes ended as "
        f"{dict(states)}; {hours:.0f} simulated hours in {time.monotonic() - began:.0f} s, "
        f"{_processor_seconds():.0f} s of processors"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
