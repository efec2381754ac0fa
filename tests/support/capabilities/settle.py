"""What a start of holdfast does about settings, over and over in one process.

`python settle.py ROOT PROFILES JOURNAL` reads commands, a line each, and answers each with a
line of JSON: `state` is a start, which settles what a crash left, and returns what is in force;
`rollback` restores what was before the first apply.
"""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast._engine import Progress
from holdfast.operations.kinds import Context
from holdfast.privileged.executor import LocalExecutor
from holdfast.tuning.models import RollbackRequest
from holdfast.tuning.service import Tuning


def main() -> None:
    """Return commands until the end of the input."""
    root, profiles, journal = map(Path, sys.argv[1:])
    for line in sys.stdin:
        tuning = Tuning(
            roots=[root],
            state_dir=root / ".holdfast",
            profiles_dir=profiles,
            privileged=LocalExecutor(),
            journal_dir=journal,
        )
        tuning.prepare()
        if line.strip() == "rollback" and tuning.state().history:
            kind = next(kind for kind in tuning.kinds() if kind.name == "tuning.rollback")
            request = RollbackRequest(to="first")
            kind.run(Context(id="settle", params=request, progress=Progress()))
        print(tuning.state().model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
