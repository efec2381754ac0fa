"""The unit tests of the Ansible collection, which ansible-test runs as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleet.ansible import COLLECTION, lay_out


def test_the_units_of_the_collection_pass(tmp_path: Path) -> None:
    pytest.importorskip("ansible")
    lay_out(tmp_path)
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", str(settings), "-p", "no:schemathesis"),
            *("--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)),
            str(COLLECTION / "tests" / "unit"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
