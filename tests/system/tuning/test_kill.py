"""An apply that is killed at any of its steps: all old or all new after the next start."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import start_in
from tests.support.capabilities.tuning_steps import WANTED, Node, chosen, stepping_node
from tests.support.daemon.harness import Daemon
from tests.support.machine.namespaces import own_namespaces
from tests.support.waiting import until

pytestmark = pytest.mark.long


@pytest.fixture
def node(disk_dir: Path) -> Iterator[Node]:
    with stepping_node(disk_dir) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_step_all_is_old_or_all_is_new_after_the_next_start(node: Node) -> None:
    every = node.steps()
    steps = chosen(every)
    assert sum(one.sysctl is not None for one in every) == len(WANTED)
    committed = []
    for step in steps:
        killed = node.disturb(step, "signal=SIGKILL")
        assert killed.returncode in (-9, 137), (step, killed.stderr)

        state = node.start()

        after = node.values()
        if state["profile"] is None:
            assert after == node.old, step
        else:
            assert node.is_new(after), (step, after)
            assert state["drifted"] == []
            committed.append(step)
        assert state["problem"] is None, step
        node.roll_back()
    # Killed after all writes had been verified, it is finished and not reverted.
    assert committed
    assert committed == steps[-len(committed) :]


def test_the_daemon_finishes_what_its_end_cut_short(
    start_daemon: Callable[..., Daemon], disk_dir: Path
) -> None:
    """Killed in the middle of an apply, the next daemon reverts it and reports that."""
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
