"""`make demo`, `make demo-fleet` and `make run`, as a person tries them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon.harness import clean_environment, dying_with_parent, free_port
from tests.support.fleet.rollout import environment
from tests.support.machine.disk import drop, read_all, write_file
from tests.support.machine.privileges import ordinary

__all__ = ["ordinary"]

CHECKOUT = Path(__file__).resolve().parents[3]
MIB = 1 << 20


@pytest.fixture
def data(disk_dir: Path) -> Path:
    """Give a directory with a few files, all of them in memory."""
    for number in range(3):
        read_all(write_file(disk_dir / "data" / f"{number}.db", 4 * MIB))
    (disk_dir / "scratch").mkdir()
    return disk_dir / "data"


def demo(data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", "--data", data],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env=clean_environment(HOLDFAST_TEST_DIR=str(data.parent / "scratch")),
    )


def test_the_demo_on_data_of_ones_own(data: Path) -> None:
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    done = demo(data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "will write out and drop the pages" in done.stdout
    assert "recall: 100.000 %" in done.stdout
    for command in (
        "holdfast pagecache show",
        "holdfast pagecache evict",
        "holdfast pagecache load",
        "holdfast manifest build",
        "holdfast manifest verify",
        "holdfast tune plan",
        "curl -fsS --unix-socket",
        "/metrics",
    ):
        assert re.search(rf"^\$ .*{re.escape(command)}", done.stdout, re.MULTILINE), command
    assert 'holdfast_pagecache_resident_bytes{root="' in done.stdout
    # Nothing is left: no file of its own, no process, and the data as it was.
    assert list((data.parent / "scratch").iterdir()) == []
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    assert "ok: " in done.stdout
    assert "dd of=" not in done.stdout
    daemon = re.search(r"^\$ kill (\d+)$", done.stdout, re.MULTILINE)
    assert daemon is not None
    with pytest.raises(ProcessLookupError):
        os.kill(int(daemon[1]), 0)


def test_the_demo_fails_when_there_is_nothing_to_show(data: Path) -> None:
    for path in data.iterdir():
        drop(path)
    done = demo(data)
    assert done.returncode == 1, done.stdout
    assert "nothing of" in done.stderr
    assert list((data.parent / "scratch").iterdir()) == []


@pytest.mark.slow
def test_the_demo_on_its_own_sample(disk_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(HOLDFAST_TEST_DIR=str(disk_dir)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = re.search(r"^writing .* files, ([\d.]+) GiB", done.stdout, re.MULTILINE)
    assert written is not None
    assert float(written[1]) >= 1
    flipped = "! tables/large-1.db  (other content, bytes 67108864-134217728)"
    verdict = re.compile("^(ok|NOT OK): |^exit code 3: files", re.MULTILINE)
    assert flipped in done.stdout
    assert verdict.findall(done.stdout) == ["ok", "NOT OK", "", "ok"]
    assert list(disk_dir.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root")
@pytest.mark.timeout(600)
def test_the_demo_of_a_fleet_rolls_real_daemons(disk_dir: Path) -> None:
    smaller = ("--zones", "2", "--nodes", "1", "--quick")
    with subprocess.Popen(
        dying_with_parent([sys.executable, "-m", "demo.fleet", *smaller]),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(HOLDFAST_TEST_DIR=str(disk_dir)),
    ) as process:
        assert process.stdout is not None
        printed = ""
        shown: Any = None
        for line in process.stdout:
            printed += line
            if line.startswith("The rollout's page"):
                # It is in another network, and waits for the controller to start.
                url = line.split()[-1]
                page = httpx.get(url, timeout=300.0, trust_env=False)
                assert "<title>holdfast roll</title>" in page.text
                shown = httpx.get(f"{url}status.json", trust_env=False).json()
        errors = process.communicate()[1]
    if "no network namespaces can be made here" in errors:
        pytest.skip(errors.strip())
    assert process.returncode == 0, printed + errors
    assert shown["zones"] == {"a": ["a-1"], "b": ["b-1"]}
    for node in ("a-1", "b-1"):
        row = rf"^\w +{node} +done +confirmed +web-2 +1 "
        assert re.search(row, printed, re.MULTILINE), printed
    assert list(disk_dir.iterdir()) == []


def test_the_demo_of_a_fleet_names_in_a_line_what_it_needs(ordinary: list[str]) -> None:
    done = subprocess.run(
        [*ordinary, sys.executable, "demo/requirements.py", "demo-fleet"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("other users cannot read this checkout")
    assert done.returncode == 1
    assert re.fullmatch(r"make demo-fleet: .*(takes root|apt-get install).*\n", done.stderr)


def test_the_lines_that_make_run_prints_can_be_pasted(data: Path, disk_dir: Path) -> None:
    # A copy, as the script keeps its files below its checkout.
    checkout = disk_dir / "checkout"
    (checkout / "packaging").mkdir(parents=True)
    shutil.copy(CHECKOUT / "packaging" / "run-in-checkout", checkout / "packaging")
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    script = checkout / "packaging" / "run-in-checkout"
    with subprocess.Popen(
        dying_with_parent([script, data, f"127.0.0.1:{free_port()}"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line.strip())
                if "/v1/node" in line:
                    break
            begin = next(n for n, line in enumerate(lines) if line.startswith("S="))
            pasted = lines[begin:]
            assert len([line for line in pasted if "curl" in line]) >= 6
            for line in pasted[1:]:
                command = re.sub(r"\bcurl\b", "curl -fsS", line)
                done = subprocess.run(
                    ["bash", "-c", f"{pasted[0]}\n{command}"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, (line, done.stderr)
                assert done.stdout
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
    assert process.returncode == 0
