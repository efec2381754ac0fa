"""What `make demo-machine` shows and refuses, without a machine."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from demo.machine import compare
from demo.machine_view import MachineView
from tests.support.machine.ground import CHECKOUT
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("target", "program", "package"),
    [
        ("demo-machine", "qemu-system-x86_64", "qemu-system-x86"),
        ("demo-fleet", "nsenter", "util-linux"),
    ],
)
def test_missing_programs_are_named_in_one_line_with_their_packages(
    target: str, program: str, package: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "demo" / "requirements.py", target],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"make {target}: ")
    assert program in done.stderr
    assert package in done.stderr.partition("apt-get install")[2].split()


@pytest.mark.skipif(os.geteuid() == 0, reason="for an ordinary user")
def test_an_ordinary_user_is_refused_before_anything_is_made() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo.machine"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_states_are_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    answers: Iterator[dict[str, object]] = iter([{"state": "staging"}, {"state": "staged"}])

    def status() -> dict[str, object]:
        try:
            return next(answers)
        except StopIteration:
            raise httpx.ConnectError("off") from None

    seen = ""
    out = Console(file=io.StringIO(), force_terminal=False)
    with MachineView("node", status, lambda: "", terminal=out) as view:
        view.step("stage")

        def staged() -> bool:
            nonlocal seen
            seen += capsys.readouterr().out
            return "state: staged" in seen

        until(staged, seconds=20, what="the state in the output")
    assert [line.split("  ", 1)[1].strip() for line in seen.splitlines()] == [
        "stage",
        "state: staging",
        "state: staged",
    ]


def test_a_terminal_shows_states_progress_and_console() -> None:
    progress = {"phase": "writing", "bytes_done": 1 << 20, "bytes_expected": 4 << 20}
    shown = io.StringIO()
    out = Console(file=shown, force_terminal=True, width=120, height=40)

    def status() -> dict[str, object]:
        return {"state": "imaging", "progress": progress}

    with MachineView("node", status, lambda: "\x1b[32mGRUB\x1b[0m loading", terminal=out):
        until(lambda: "25%" in shown.getvalue(), seconds=20, what="the progress on the screen")
    for text in ("imaging", "writing", "GRUB loading", "the machine's console"):
        assert text in shown.getvalue(), text


@pytest.mark.parametrize(
    ("position", "value", "good"), [(0, "other data", False), (2, "old-1", False), (2, "new", True)]
)
def test_data_have_to_be_the_same_and_the_image_another(
    position: int, value: str, good: bool
) -> None:
    before = ["digest", "2", "old-1", "uuid-1", "node-7", "id", "key"]
    after = ["digest", "2", "abc-2", "uuid-2", "node-7", "id", "key"]
    after[position] = value
    assert compare(before, after, Console(file=io.StringIO())) is good
