"""An apply of a profile of which any step can be disturbed, by a kill or a fault of the kernel's.

strace stops the real program at the entry of a chosen system call, with SIGKILL or with an error
of the kernel's. First an undisturbed run shows which calls there are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import settle as settler_program
from tests.support.command_line import forked as forked_program
from tests.support.command_line.forked import Forked
from tests.support.daemon.harness import clean_environment
from tests.support.machine.namespaces import Namespaces, own_namespaces

WANTED = {
    "net.core.somaxconn": "4321",
    "net.ipv4.tcp_keepalive_time": "61",
    "net.ipv4.tcp_keepalive_probes": "4",
    "net.ipv4.tcp_keepalive_intvl": "11",
    "net.ipv4.tcp_retries1": "4",
    "net.ipv4.tcp_retries2": "6",
    "net.ipv4.tcp_orphan_retries": "3",
    "net.ipv4.tcp_syn_retries": "5",
    "net.ipv4.tcp_synack_retries": "4",
    "net.ipv4.tcp_fin_timeout": "33",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_slow_start_after_idle": "0",
    "net.ipv4.tcp_max_syn_backlog": "4096",
    "net.ipv4.tcp_mtu_probing": "1",
    "net.ipv4.tcp_sack": "0",
    "net.ipv4.tcp_timestamps": "0",
    "net.ipv4.tcp_window_scaling": "0",
    "net.ipv4.tcp_rmem": "4096 87380 16777216",
    "net.ipv4.tcp_wmem": "4096 65536 16777216",
    "net.ipv4.ip_local_port_range": "10240 65000",
    "net.ipv4.ip_default_ttl": "65",
}
# Of the steps of one kind, such as the writes of settings, one in every few is tried.
EVERY = int(os.environ.get("HOLDFAST_TEST_STEPS_EVERY", "5"))
DROP_IN = "/etc/systemd/system/db.service.d/90-holdfast.conf"
PERSISTED = "/etc/sysctl.d/90-holdfast.conf"
CALLS = ("write", "fsync", "rename", "unlink", "mkdir")
# The file a call is about: of a descriptor with -y, or the first name.
_LINE = re.compile(r'^\d+ +(?P<call>\w+)\((?:\d+<(?P<path>[^>]*)>|"(?P<name>[^"]*)")')


@dataclass(frozen=True)
class Step:
    """The n-th call of its kind on a file, counted from 1."""

    call: str
    path: str
    number: int

    @property
    def sysctl(self) -> str | None:
        """The sysctl that this writes; None if it writes something else."""
        _, found, name = self.path.partition("/proc/sys/")
        return name.replace("/", ".") if found and self.call == "write" else None


class Node:
    """Namespaces with a profile, and `holdfast tune --local` in them."""

    def __init__(
        self, ns: Namespaces, directory: Path, settler: subprocess.Popen[str], forked: Forked
    ) -> None:
        self.ns = ns
        self._forked = forked
        self.trace = directory / "trace"
        self.config = directory / "holdfast.toml"
        self._settler = settler
        self.old = self.values()

    def values(self) -> dict[str, str]:
        """Read everything that the profile sets."""
        names = " ".join("/proc/sys/" + name.replace(".", "/") for name in WANTED)
        script = f"cat {names}; cat {DROP_IN} 2>&1 | tr '\\n' ' '; cat {PERSISTED} 2>&1 | wc -l"
        lines = self.ns.run("sh", "-c", script).splitlines()
        return dict(zip((*WANTED, "files"), (" ".join(one.split()) for one in lines), strict=True))

    def is_new(self, values: dict[str, str]) -> bool:
        """Whether everything is as the profile wants it."""
        files = values["files"]
        right = "LimitNOFILE=5 LimitNPROC=6" in files and files.endswith(str(len(WANTED) + 2))
        return right and all(values[name] == WANTED[name] for name in WANTED)

    def apply(self, *strace: str) -> subprocess.CompletedProcess[str]:
        """Apply the profile under strace."""
        command = ["tune", "apply", "mine", "--persist", "--json", "--local"]
        return self._forked.run(strace, [*command, "--config", str(self.config)])

    def disturb(self, step: Step, how: str) -> subprocess.CompletedProcess[str]:
        """Apply the profile, and let `how` happen instead of one call."""
        inject = f"inject={step.call}:{how}:when={step.number}"
        trace = f"trace={step.call}"
        return self.apply("-P", step.path, "-e", trace, "-e", inject, "-o", "/dev/null")

    def start(self) -> dict[str, Any]:
        """Start anew, which settles what was cut short; return the state."""
        return self._tell("state")

    def roll_back(self) -> None:
        """Restore everything, if anything is in force."""
        self._tell("rollback")
        assert self.values() == self.old

    def steps(self) -> list[Step]:
        """Determine which calls change anything, by an apply that nothing disturbs."""
        # The first one makes directories, which no later one does.
        first = self.apply("-e", "trace=none", "-o", "/dev/null")
        assert first.returncode == 0, first
        self.roll_back()
        calls = f"trace={','.join(CALLS)}"
        done = self.apply("-y", "-s", "300", "-e", calls, "-o", str(self.trace))
        assert done.returncode == 0, done.stderr
        assert self.is_new(self.values())
        self.roll_back()
        found: list[Step] = []
        for line in self.trace.read_text().splitlines():
            match = _LINE.match(line)
            path = (match["path"] or match["name"]) if match is not None else ""
            if match is None or not re.search(r"/tuning|/proc/sys/|/etc/sys", path):
                continue
            same = [one for one in found if (one.call, one.path) == (match["call"], path)]
            found.append(Step(match["call"], path, len(same) + 1))
        return found

    def _tell(self, command: str) -> dict[str, Any]:
        assert self._settler.stdin is not None
        assert self._settler.stdout is not None
        self._settler.stdin.write(f"{command}\n")
        self._settler.stdin.flush()
        answer: dict[str, Any] = json.loads(self._settler.stdout.readline())
        return answer


def chosen(steps: list[Step]) -> list[Step]:
    """Return the first and the last step of each kind, and one in EVERY of those between."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        where = "/proc/sys" if step.sysctl else re.sub(r"[0-9A-Z]{8,}|\d+", "", step.path)
        kinds.setdefault((step.call, where), []).append(step)
    tried = {id(one) for kind in kinds.values() for one in [*kind[::EVERY], kind[-1]]}
    return [one for one in steps if id(one) in tried]


@contextmanager
def stepping_node(disk_dir: Path) -> Iterator[Node]:
    """Give namespaces of their own with a profile, in which steps of an apply are disturbed."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    profiles, root, journal = disk_dir / "profiles.d", disk_dir / "data", disk_dir / "tuning"
    profiles.mkdir()
    root.mkdir()
    lines = "".join(f'"{name}" = "{value}"\n' for name, value in WANTED.items())
    text = f'[sysctl]\n{lines}[limits."db.service"]\nnofile = 5\nnproc = 6\n'
    (profiles / "mine.toml").write_text(text)
    (disk_dir / "holdfast.toml").write_text(
        f'roots = ["{root}"]\n[tuning]\nprofiles_dir = "{profiles}"\njournal_dir = "{journal}"\n'
    )
    with own_namespaces(disk_dir / "scratch") as ns:
        settle = [sys.executable, settler_program.__file__, str(root), str(profiles), str(journal)]
        fork = [sys.executable, forked_program.__file__]
        with (
            _talking([*ns.wrapper, *settle]) as settler,
            _talking([*ns.wrapper, *fork]) as forked,
        ):
            yield Node(ns, disk_dir, settler, forked_program.Forked(forked, disk_dir))


def _talking(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
