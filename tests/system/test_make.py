"""What a new user types first: the demo, `make run`, `make help`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disk import drop, read_all, write_file
from tests.system.harness import clean_environment, dying_with_parent, free_port

CHECKOUT = Path(__file__).resolve().parents[2]
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
        [sys.executable, "-m", "tests.demo", "--data", data],
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
        [sys.executable, "-m", "tests.demo"],
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
    verdict = re.compile("^(ok|NOT OK): |^exit code 3", re.MULTILINE)
    assert flipped in done.stdout
    assert verdict.findall(done.stdout) == ["ok", "NOT OK", "", "ok"]
    assert list(disk_dir.iterdir()) == []


def test_the_lines_that_make_run_prints_can_be_pasted(data: Path, disk_dir: Path) -> None:
    # A copy, as the script keeps its files below the checkout it lies in.
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


def test_help_lists_the_targets() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    targets = re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE)
    expected = {"help", "build", "demo", "run", "test", "check", "lint", "format", "bench", "clean"}
    assert expected <= set(targets)
