"""Settings of interfaces that go, come back and are renamed, and of modules that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import Tuned, row_of, tuned
from tests.support.daemon.harness import Daemon
from tests.support.waiting import until

APPEAR_SECONDS = 5.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="settings are root's to change")


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


def if_present(value: int) -> str:
    return f"{{ value = {value}, only_if_present = true }}"


OF_V0 = {
    "net.ipv4.conf.v0.rp_filter": if_present(2),
    "net.ipv6.conf.v0.accept_ra": if_present(0),
    "net.ipv4.neigh.v0.gc_stale_time": if_present(77),
}
VALUES = {
    "net.ipv4.conf.v0.rp_filter": "2",
    "net.ipv6.conf.v0.accept_ra": "0",
    "net.ipv4.neigh.v0.gc_stale_time": "77",
}


def has_values(node: Tuned) -> bool:
    return node.sysctls(*VALUES) == VALUES


def test_what_is_gone_is_no_drift_and_in_nobodys_way(node: Tuned) -> None:
    node.ns.pair("v0", "v1")
    fin = node.ns.sysctl("net.ipv4.tcp_fin_timeout")
    node.profile("p1", {**OF_V0, "net.ipv4.tcp_fin_timeout": "33"})
    node.profile("p2", {"net.ipv4.tcp_fin_timeout": "44"})
    assert node.apply("p1")["written"] == 4
    node.ns.run("ip", "link", "del", "v0")

    assert node.state()["drifted"] == []
    assert node.events("drifted") == []
    row = row_of(node.apply("p1"), "net.ipv4.conf.v0.rp_filter")
    assert row["action"] == "skip"
    node.apply("p2")
    notes = node.rollback("first")["notes"]
    assert any("net.ipv4.conf.v0.rp_filter was not restored" in note for note in notes)
    assert node.ns.sysctl("net.ipv4.tcp_fin_timeout") == fin
    assert (node.state()["problem"], node.state()["left"]) == (None, [])


def test_another_interface_of_the_name_keeps_what_it_has(node: Tuned) -> None:
    node.ns.pair("v0", "v1")
    node.profile("p1", OF_V0)
    node.apply("p1")
    node.daemon.stop()
    node.ns.run("ip", "link", "del", "v0")
    node.ns.pair("v0", "v1")
    node.ns.set_sysctl("net.ipv4.conf.v0.rp_filter", "1")
    node.profile("p1", {"net.ipv4.tcp_fin_timeout": "33"})  # so that it is not set again
    node.daemon.restart()
    node.rollback()
    assert node.ns.sysctl("net.ipv4.conf.v0.rp_filter") == "1"


@pytest.mark.parametrize("policy", ["report", "enforce"])
def test_what_comes_is_set_within_seconds_and_what_comes_back_again(
    node: Tuned, policy: str
) -> None:
    node.profile("p1", OF_V0, head=f'policy = "{policy}"')
    assert node.apply("p1")["written"] == 0
    for _ in range(5):
        node.ns.pair("v0", "v1")
        until(lambda: has_values(node), seconds=APPEAR_SECONDS, what="settings of what appeared")
        node.ns.run("ip", "link", "del", "v0")
        until(lambda: node.state()["settings"] == {}, what="the end of the settings")
    assert node.events("contested") == []
    assert node.events("drifted") == []
    node.rollback()


def test_what_is_renamed_is_followed(node: Tuned) -> None:
    node.ns.pair("v0", "v1")
    before = node.sysctls(*VALUES)
    rest = '[[network]]\nselect = { name = "v0" }\ntxqueuelen = 321\n'
    node.profile("p1", OF_V0, rest)
    node.apply("p1")
    for command in ("down", "name w0.7", "up"):
        node.ns.run(
            "ip", "link", "set", "dev", "w0.7" if command == "up" else "v0", *command.split()
        )
    assert node.state()["drifted"] == []

    node.rollback()

    renamed = {name: name.replace(".v0.", ".w0/7.") for name in VALUES}
    for name, value in before.items():
        path = renamed[name].replace(".", "\0").replace("/", ".").replace("\0", "/")
        assert node.ns.read(f"/proc/sys/{path}") == value
    assert "qlen 1000" in node.ns.run("ip", "link", "show", "dev", "w0.7")


def test_two_interfaces_that_change_names_each_get_their_own_back(node: Tuned) -> None:
    node.ns.pair("v0", "v1")
    node.ns.set_sysctl("net.ipv4.conf.v0.rp_filter", "1")
    node.ns.set_sysctl("net.ipv4.conf.v1.arp_ignore", "3")
    node.profile("p1", {"net.ipv4.conf.v0.rp_filter": "2", "net.ipv4.conf.v1.arp_ignore": "1"})
    node.apply("p1")
    for interface in ("v0", "v1"):
        node.ns.run("ip", "link", "set", "dev", interface, "down")
    for old, new in (("v0", "x"), ("v1", "v0"), ("x", "v1")):
        node.ns.run("ip", "link", "set", "dev", old, "name", new)
    node.rollback()
    assert node.ns.sysctl("net.ipv4.conf.v1.rp_filter") == "1"
    assert node.ns.sysctl("net.ipv4.conf.v0.arp_ignore") == "3"
    assert node.ns.sysctl("net.ipv4.conf.v0.rp_filter") == "0"
