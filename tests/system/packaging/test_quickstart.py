"""The sessions of README.md and docs/quickstart.md do what these documents show."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.command_line.documented_session import Step, matches, run_session, steps_of
from tests.support.daemon.harness import Daemon, clean_environment, free_port
from tests.support.machine.disk import read_all, write_file
from tests.support.machine.ground import CHECKOUT, program

README = (CHECKOUT / "README.md").read_text()
MIB = 1 << 20
QUICKSTART = (CHECKOUT / "docs" / "quickstart.md").read_text()


def _environment(home: Path) -> dict[str, str]:
    here = Path(sys.executable).parent
    return clean_environment(
        HOME=str(home),
        PATH=f"{here}:{os.environ['PATH']}",
        HOLDFAST_DATA__FREE_SPACE_FLOOR="0",  # the disk of the tests may be small
    )


def _quickstart(text: str) -> list[Step]:
    """Return the steps of the quickstart, on a free port; nothing is built."""
    text = text.replace(":9918", f":{free_port()}").replace("$ make ", "$ make --dry-run ")
    return [
        Step(step.command, [] if step.command.startswith("make ") else step.shown)
        for step in steps_of(text)
    ]


def test_each_line_of_the_quickstart_does_what_it_shows(disk_dir: Path) -> None:
    program("curl")
    steps = _quickstart(QUICKSTART)
    assert len(steps) >= 30
    ran = run_session(steps, directory=CHECKOUT, environment=_environment(disk_dir))
    problems = [problem for line in ran if (problem := line.problem())]
    assert not problems, "\n\n".join(problems)
    assert list(disk_dir.iterdir()) == [], "the session leaves something behind"


def test_the_session_of_the_readme_does_what_it_shows(daemon: Daemon) -> None:
    for name in ("table.db", "index.db"):
        read_all(write_file(daemon.root / name, 4 * MIB))
    text = README.partition("\n## A session\n")[2].partition("\n## ")[0]
    # What would fetch an image only has to be a command that exists.
    text = re.sub(
        r"^(\$ .*images\.example\S* --sha256).*$", r"\1 0 --help", text, flags=re.MULTILINE
    )
    steps = steps_of(text.replace("/mnt/data", str(daemon.root)))
    assert len(steps) == 5
    environment = _environment(daemon.directory) | {"HOLDFAST_SOCKET": str(daemon.socket)}
    ran = run_session(steps, directory=CHECKOUT, environment=environment)
    problems = [problem for line in ran if (problem := line.problem())]
    assert not problems, "\n\n".join(problems)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["ok: …, all match"], "ok: /a against b, all match\n", True),
        (["ok: …, all match"], "NOT OK: 1 mismatched\n", False),
        (["a", "…", "d"], "a\nb\nc\nd\n", True),
        (["a", "…", "d"], "a\nd\n", True),
        (["a", "d"], "a\nb\nd\n", False),
        (["…"], "", True),
        (["401"], "200", False),
    ],
)
def test_a_document_is_compared_with_what_is_printed(
    shown: list[str], printed: str, same: bool
) -> None:
    assert matches(shown, printed) is same


def test_a_session_stops_for_nothing_and_reports_each_failure(tmp_path: Path) -> None:
    text = "```console\n$ X=5\n$ false\n$ echo $X\n6\n$ sleep 600 &\n```\n"
    ran = run_session(steps_of(text), directory=tmp_path, environment=_environment(tmp_path))
    problems = [line.problem() for line in ran]
    assert [problem is None for problem in problems] == [True, False, False, True]
    assert "ended with 1" in str(problems[1])
    assert "printed\n5" in str(problems[2])
