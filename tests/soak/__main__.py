"""`python -m tests.soak --minutes 60`: prints figures each minute, ends with 1 if one is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.soak.run import soak

parser = argparse.ArgumentParser(prog="soak", description=__doc__)
parser.add_argument("--minutes", type=float, default=60.0)
parser.add_argument("--connections", type=int, default=1000, help="hostile ones at a time")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory(prefix="soak-") as directory:
    report = soak(
        Path(directory),
        arguments.minutes * 60,
        connections=arguments.connections,
        say=partial(print, flush=True),
    )
print(report)
sys.exit(bool(report.problems))
