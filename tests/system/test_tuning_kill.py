"""An apply that is killed, or meets a fault, at any of its steps: all old or all new afterwards.

strace stops the real program at the entry of a chosen system call, with SIGKILL or with an error
of the kernel's. First an undisturbed run tells which calls there are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.namespaces import Namespaces, own_namespaces
from tests.system.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.system.tuning import start_in
from tests.waiting import until

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
DROP_IN = "/etc/systemd/system/db.service.d/90-holdfast.conf"
PERSISTED = "/etc/sysctl.d/90-holdfast.conf"
CALLS = ("write", "fsync", "rename", "unlink", "mkdir")
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")


@dataclass(frozen=True)
class Step:
    """The so-manieth call of its kind in the thread that applies."""

    call: str
    number: int
    what: str

    @property
    def writes_setting(self) -> bool:
        """Whether this writes to the kernel."""
        return self.call == "write" and "/proc/sys/" in self.what


class Node:
    """Namespaces with a profile, and `holdfast tune --local` in them."""

    def __init__(self, ns: Namespaces, directory: Path) -> None:
        self.ns = ns
        self.directory = directory
        profiles = directory / "profiles.d"
        profiles.mkdir()
        lines = "".join(f'"{name}" = "{value}"\n' for name, value in WANTED.items())
        text = f'[sysctl]\n{lines}[limits."db.service"]\nnofile = 5\nnproc = 6\n'
        (profiles / "mine.toml").write_text(text)
        root = directory / "data"
        root.mkdir()
        self.config = directory / "holdfast.toml"
        self.config.write_text(f'roots = ["{root}"]\n[tuning]\nprofiles_dir = "{profiles}"\n')
        self.old = self.values()

    def values(self) -> dict[str, str]:
        """Read everything that the profile sets."""
        names = " ".join("/proc/sys/" + name.replace(".", "/") for name in WANTED)
        lines = self.ns.run("sh", "-c", f"cat {names}").splitlines()
        found = dict(zip(WANTED, (" ".join(line.split()) for line in lines), strict=True))
        for path in (DROP_IN, PERSISTED):
            found[path] = self.ns.read(path) if self.ns.exists(path) else "absent"
        return found

    def is_new(self, values: dict[str, str]) -> bool:
        """Whether everything is as the profile wants it."""
        files = [values[path] for path in (DROP_IN, PERSISTED)]
        return all(values[name] == WANTED[name] for name in WANTED) and "absent" not in files

    def apply(self, *strace: str) -> subprocess.CompletedProcess[str]:
        """Apply the profile under strace."""
        command = [*HOLDFAST, "tune", "apply", "mine", "--persist", "--json"]
        return subprocess.run(
            [
                *self.ns.wrapper,
                "strace",
                "-f",
                *strace,
                *command,
                "--local",
                "--config",
                self.config,
            ],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command without strace."""
        return run_cli(
            "tune", *arguments, "--local", "--config", self.config, wrapper=self.ns.wrapper
        )

    def roll_back(self) -> None:
        """Bring everything back, if anything is in force."""
        self.local("rollback", "--to", "first")
        assert self.values() == self.old

    def steps(self) -> list[Step]:
        """Find out which calls an apply makes in the thread that writes settings."""
        trace = self.directory / "trace"
        calls = f"trace={','.join(CALLS)}"
        done = self.apply("-y", "-s", "200", "-e", calls, "-o", str(trace))
        assert done.returncode == 0, done.stderr
        by_thread: dict[str, list[Step]] = {}
        counts: dict[tuple[str, str], int] = {}
        for line in trace.read_text().splitlines():
            match = _LINE.match(line)
            if match is None:
                continue
            thread, call, rest = match.groups()
            counts[thread, call] = counts.get((thread, call), 0) + 1
            by_thread.setdefault(thread, []).append(Step(call, counts[thread, call], rest))
        found = next(
            steps for steps in by_thread.values() if any(one.writes_setting for one in steps)
        )
        self.roll_back()
        return found


@pytest.fixture
def node(disk_dir: Path) -> Iterator[Node]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with own_namespaces(disk_dir / "scratch") as ns:
        yield Node(ns, disk_dir)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_step_all_is_old_or_all_is_new_after_the_next_start(node: Node) -> None:
    steps = node.steps()
    assert sum(one.writes_setting for one in steps) >= len(WANTED)
    committed = []
    for step in steps:
        inject = f"inject={step.call}:signal=SIGKILL:when={step.number}"
        killed = node.apply("-qq", "-e", f"trace={step.call}", "-e", inject, "-o", "/dev/null")
        assert killed.returncode in (-9, 137), (step, killed.stderr)

        # The next start settles it: of the daemon, or of a command that does the work itself.
        shown = json.loads(node.local("show", "--json").stdout)

        after = node.values()
        if shown["profile"] is None:
            assert after == node.old, step
        else:
            assert node.is_new(after), (step, after)
            assert shown["drifted"] == []
            committed.append(step)
        assert shown["problem"] is None, step
        node.roll_back()
    # Killed after all writes had been verified, it is finished and not taken back.
    assert committed
    assert len(committed) < len(steps) / 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_fault_at_any_step_takes_everything_back_or_does_not_matter(
    node: Node, error: str
) -> None:
    steps = node.steps()
    chosen = steps if error == "EIO" else [one for one in steps if not one.writes_setting]
    for step in chosen:
        inject = f"inject={step.call}:error={error}:when={step.number}"
        done = node.apply("-qq", "-e", f"trace={step.call}", "-e", inject, "-o", "/dev/null")
        after = node.values()
        if done.returncode == 0:
            assert not step.writes_setting, step
            assert node.is_new(after), (step, after)
        else:
            assert after == node.old, (step, done.stderr)
            if step.writes_setting:
                name = step.what.partition("/proc/sys/")[2].partition(">")[0].replace("/", ".")
                problem = json.loads(done.stdout)["error"]
                assert problem["setting"]["name"] == name
                assert "Input/output error" in problem["reason"]
                assert problem["not_reverted"] == []
        shown = json.loads(node.local("show", "--json").stdout)
        assert (shown["profile"] is None) == (after == node.old), step
        node.roll_back()


def test_the_daemon_finishes_what_its_end_cut_short(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    """Killed in the middle of an apply, the next daemon takes it back and says so."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with own_namespaces(disk_dir / "scratch") as ns:
        node = start_in(start_daemon, disk_dir, ns)
        node.profile("mine", WANTED)
        before = node.sysctls(*WANTED)
        path = "/proc/sys/net/ipv4/tcp_rmem"
        inject, pid = "inject=write:signal=SIGKILL", str(node.daemon.pid)
        tracer = subprocess.Popen(
            ["strace", "-f", "-P", path, "-e", "trace=write", "-e", inject, "-p", pid],
            stderr=subprocess.PIPE,
            text=True,
        )
        with tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            answer = node.daemon.cli("tune", "apply", "mine")
        assert answer.returncode == 1
        node.daemon.process.wait(10)
        assert node.sysctls(*WANTED) != before, "it was killed before it wrote anything"

        node.daemon.restart()

        assert node.sysctls(*WANTED) == before
        assert node.events("recovered")
        (operation,) = until(
            lambda: node.daemon.http.get(
                "/v1/operations", params={"kind": "tuning.apply", "state": "failed"}
            ).json()["operations"],
            what="the end of the operation",
        )
        assert operation["error"]["type"] == "/problems/interrupted"
        assert node.state()["profile"] is None
        assert node.apply("mine")["written"] > 0
        node.rollback()
