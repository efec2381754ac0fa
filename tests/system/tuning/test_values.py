"""Values are equal if the kernel takes them for equal, and only then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.capabilities.tuning import Tuned, kept, row_of, tuned
from tests.support.daemon.harness import Daemon

RESERVED = "net.ipv4.ip_local_reserved_ports"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="settings are root's to change")


@pytest.fixture
def node(start_daemon: Callable[..., Daemon], disk_dir: Path) -> Iterator[Tuned]:
    with tuned(start_daemon, disk_dir) as found:
        yield found


def test_what_the_kernel_writes_otherwise_is_right_and_goes_back(node: Tuned) -> None:
    wanted = {
        RESERVED: ("7000,7001,7199,9042", "7000-7001,7199,9042"),
        "net.ipv6.icmp.ratemask": ("3-127,0,1", "0-1,3-127"),
        "net.ipv4.tcp_fin_timeout": ("0x21", "33"),
        "net.ipv4.tcp_retries2": ("006", "6"),
        "net.ipv4.tcp_rmem": ("4096\\t87380  16777216", "4096 87380 16777216"),
    }
    before = node.sysctls(*wanted)
    assert before[RESERVED] == ""
    node.profile("mine", {name: given for name, (given, _) in wanted.items()})

    node.apply("mine")

    for name, (_, shown) in wanted.items():
        assert node.ns.sysctl(name) == shown
    assert node.state()["drifted"] == []
    assert node.apply("mine")["written"] == 0
    node.rollback()
    assert node.sysctls(*before) == before


def test_an_empty_list_can_be_asked_for(node: Tuned) -> None:
    node.ns.set_sysctl(RESERVED, "5000-5010")
    node.profile("none", {RESERVED: ""})
    assert node.apply("none")["written"] == 1
    assert node.ns.sysctl(RESERVED) == ""
    node.rollback()
    assert node.ns.sysctl(RESERVED) == "5000-5010"


def test_what_the_kernel_rounds_is_announced_and_reported(node: Tuned) -> None:
    node.ns.pair("v0", "v1")
    with kept("/proc/sys/fs/pipe-max-size"):
        wanted = {
            "net.ipv4.neigh.v0.retrans_time_ms": "1001",
            "net.ipv4.icmp_ratelimit": "1001",
            "fs.pipe-max-size": "1398102",
        }
        before = node.sysctls(*wanted)
        node.profile("mine", wanted)
        for answer in (node.plan("mine"), node.apply("mine")):
            row = row_of(answer, "fs.pipe-max-size")
            assert row["rounded"] == "2097152"
            assert "the kernel rounds 1398102 to 2097152" in row["note"]
        now = node.sysctls(*wanted)
        assert now["fs.pipe-max-size"] == "2097152"
        assert 1001 <= int(now["net.ipv4.icmp_ratelimit"]) <= 1010
        assert node.apply("mine")["written"] == 0
        assert node.state()["drifted"] == []
        node.rollback()
        assert node.sysctls(*wanted) == before


REFUSED = (
    # Kept as something else, by no rule that is known.
    ("kernel.auto_msgmni", "1", "was set to 1, but reads back as 0"),
    (RESERVED, "70000", "could not be set to 70000: Invalid argument"),
    (RESERVED, ",".join(str(port) for port in range(1000, 3000, 2)), "cannot be written"),
    ("vm.nr_hugepages", "400000000", "would take"),
    ("vm.min_free_kbytes", "40000000000", "would take"),
    ("net.ipv4.tcp_congestion_control", "no\\u0001pe", "has control characters"),
)


def test_what_the_kernel_would_not_keep_is_a_failure_in_plain_words(node: Tuned) -> None:
    for name, value, reason in REFUSED:
        before = node.sysctls(name, "net.ipv4.tcp_fin_timeout")
        node.profile("mine", {"net.ipv4.tcp_fin_timeout": "33", name: value})
        assert reason in node.refused("mine")["detail"]
        assert node.sysctls(*before) == before
        state = node.state()
        assert (state["problem"], state["left"], state["profile"]) == (None, [], None)
