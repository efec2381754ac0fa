"""`python -m tests.vm.cuts CUTS`: cuts the power of machines that become another image.

Every story is a machine of its own: its power is cut once or several times, at random instants,
while it is re-imaged and while it comes back; then it is left alone until it is the new system.
Results are kept in target/cuts/, so that a run that was ended continues where it was.
"""

from __future__ import annotations

import argparse
import sys

from tests.vm.cuts.campaign import Campaign
from tests.vm.image import CHECKOUT


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-cuts", description=__doc__)
    parser.add_argument("cuts", type=int, help="how many cuts, in all runs with this imager")
    parser.add_argument("--jobs", type=int, default=1, help="machines at the same time")
    parser.add_argument("--states", type=int, default=100_000, help="states to judge offline")
    arguments = parser.parse_args()
    campaign = Campaign(CHECKOUT / "target" / "cuts", states=arguments.states)
    campaign.run(arguments.cuts, arguments.jobs)
    print(campaign.results.summary())
    for line in campaign.results.failed:
        print(f"story {line['story']} ({line['kind']}) failed: {line['error']}", file=sys.stderr)
    return 1 if campaign.results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
