"""The client library runs with the oldest Python that it is for, and the standard library alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[3] / "client"
OLDEST = "3.10"
STORY = """
import compileall, sys
from holdfast_client import Client, OperationFailed
from holdfast_client.testing import FakeNode, Reimaging, Script

with FakeNode() as fake, fake.client() as node:
    fake.scripts["pagecache.load"] = Script(seconds=0.1, outcome="partial")
    fake.reimaging = Reimaging(down=0.1, imaging=0.2, end="confirmed")
    fake.cut("after", "before")
    assert node.pagecache.load().wait(timeout=30).outcome == "partial"
    assert len(fake.operations) == 1
    assert node.reimage.run("https://images.example/web.json", timeout=60).state == "succeeded"
    assert [each.state for each in node.manifests.build().events(timeout=30)][-1] == "succeeded"
    assert "httpx" not in sys.modules
assert compileall.compile_dir(sys.argv[1], quiet=1, force=True)
print(*sys.version_info[:2], sep=".")
"""


def _interpreter() -> str | None:
    """Return one; a command of that name may be a shim without anything behind it."""
    versions = Path.home() / ".pyenv" / "versions"
    found = [str(each) for each in versions.glob(f"{OLDEST}.*/bin/python")]
    for python in [*found, shutil.which(f"python{OLDEST}")]:
        if python and subprocess.run([python, "-V"], capture_output=True, check=False).stdout:
            return python
    return None


def test_the_client_works_with_the_oldest_python(tmp_path: Path) -> None:
    python = _interpreter()
    if python is None:
        pytest.skip(f"there is no Python {OLDEST} here")
    copy = shutil.copytree(
        CLIENT / "holdfast_client",
        tmp_path / "holdfast_client",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    done = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){STORY}", copy],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, f"{OLDEST}\n"), done.stderr
