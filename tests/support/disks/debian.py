"""Small Debian systems to install the package in, made once for each suite from Debian's archive.

They are kept as archives below target/, and unpacked into memory: what installs packages waits
for the disk after nearly every file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support.machine.mounts import mounted, tmpfs

CHECKOUT = Path(__file__).resolve().parents[3]
CACHE = CHECKOUT / "target" / "debian"
SUITES = ("bookworm", "trixie")  # Debian 12 with Python 3.11, Debian 13 with Python 3.13
# What the package depends on, and nothing else.
_PACKAGES = ("libgcc-s1", "libudev1", "python3", "systemd-standalone-sysusers")
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
_SYSTEM_BYTES = 1 << 30


def _archive(suite: str) -> Path:
    key = hashlib.sha256(repr((suite, _PACKAGES, _EXCLUDED)).encode()).hexdigest()[:12]
    return CACHE / f"{suite}-{key}.tar"


def make_systems() -> None:
    """Make what is not there yet, side by side. Needs mmdebstrap, root, and Debian's archive."""
    missing = [suite for suite in SUITES if not _archive(suite).exists()]
    if not missing:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        tmpfs(CACHE / "work", len(missing) * _SYSTEM_BYTES) as work,
        ThreadPoolExecutor(len(missing)) as pool,
    ):
        list(pool.map(lambda suite: _make(suite, work), missing))


def _make(suite: str, work: Path) -> None:
    made = work / f"{suite}.tar"
    done = subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            f"--include={','.join(_PACKAGES)}",
            *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED),
            suite,
            made,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, TMPDIR=str(work)),
    )
    assert done.returncode == 0, f"mmdebstrap {suite}: {done.stderr}"
    partial = CACHE / f"{suite}.partial"
    shutil.copyfile(made, partial)
    made.unlink()
    partial.rename(_archive(suite))


class System:
    """A copy of a small Debian, in which commands can be run."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root of that system, in namespaces of its own that end with it."""
        inside = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
        return subprocess.run(
            [*inside, f"--root={self.tree}", "--mount-proc", *command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"},
        )

    def run(self, *command: str) -> str:
        """Run a command, which must succeed, and answer its output."""
        done = self.call(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str) -> str:
        """Run a shell script, which must succeed, and answer its output."""
        return self.run("sh", "-ec", script)


@contextmanager
def copy_of(suite: str, directory: Path, files: Sequence[Path] = ()) -> Iterator[System]:
    """Give a suite's system, with files of ours in its /root; its /srv is in `directory`."""
    disk = directory / "srv"
    disk.mkdir()
    with tmpfs(directory / suite, _SYSTEM_BYTES) as tree:
        unpack = ["tar", "--extract", "--numeric-owner", f"--file={_archive(suite)}"]
        subprocess.run([*unpack, f"--directory={tree}"], check=True)
        for file in files:
            shutil.copy(file, tree / "root")
        with mounted(tree / "srv", "--bind", disk):
            yield System(tree)
