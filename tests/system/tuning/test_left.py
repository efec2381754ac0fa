"""A setting that cannot be reverted is named and kept, and is in the way of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import Tuned, tuned
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until

SOMAXCONN = "net.core.somaxconn"
FIN = "net.ipv4.tcp_fin_timeout"
STUCK = f"/proc/sys/{SOMAXCONN.replace('.', '/')}"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="settings are root's to change")


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


def block(node: Tuned) -> None:
    """Let nobody write somaxconn, which is what a broken device is like."""
    node.ns.run("mount", "--bind", STUCK, STUCK)
    node.ns.run("mount", "-o", "remount,bind,ro", STUCK)


def test_it_is_named_and_everything_else_goes_on(node: Tuned) -> None:
    before = node.sysctls(SOMAXCONN, FIN)
    node.profile("one", {SOMAXCONN: "4321", FIN: "33"})
    node.profile("two", {FIN: "44"})
    node.apply("one")
    block(node)

    applied = node.apply("two")

    (left,) = applied["left"]
    assert (left["name"], left["before"]) == (SOMAXCONN, before[SOMAXCONN])
    assert "Read-only file system" in left["reason"]
    assert node.ns.sysctl(FIN) == "44"
    state = node.state()
    assert [setting["name"] for setting in state["left"]] == [SOMAXCONN]
    assert SOMAXCONN in state["problem"]
    metric = 'holdfast_tuning_left_settings{subsystem="sysctl"} 1.0'
    assert metric in node.daemon.http.get("/metrics").text
    shown = node.daemon.cli("tune", "show")
    assert (shown.returncode, SOMAXCONN in shown.stdout) == (1, True)
    assert node.apply("two")["left"] == []

    done = node.daemon.cli("tune", "rollback", "--to", "first", "--json")
    assert done.returncode == 3
    assert [setting["name"] for setting in json.loads(done.stdout)["left"]] == [SOMAXCONN]
    assert node.ns.sysctl(FIN) == before[FIN]
    assert node.state()["profile"] is None

    node.ns.run("umount", STUCK)
    node.daemon.stop()
    node.daemon.restart()
    until(lambda: node.state()["left"] == [], what="the end of what was left")
    assert node.sysctls(SOMAXCONN, FIN) == before
    assert node.state()["problem"] is None


def test_what_it_was_before_is_known_when_it_is_applied_again(node: Tuned) -> None:
    before = node.ns.sysctl(SOMAXCONN)
    node.profile("one", {SOMAXCONN: "4321", FIN: "33"})
    node.apply("one")
    block(node)
    node.rollback()
    node.ns.run("umount", STUCK)
    node.profile("one", {SOMAXCONN: "5000"})
    node.apply("one")
    assert node.state()["left"] == []
    node.rollback()
    assert node.ns.sysctl(SOMAXCONN) == before
