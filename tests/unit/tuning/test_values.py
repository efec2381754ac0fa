"""Which values of sysctls are one value to the kernel, and what it rounds others to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tuning.config_files.sysctl_files import SysctlFiles
from holdfast.tuning.planning import values

PORTS = "net.ipv4.ip_local_reserved_ports"


@pytest.mark.parametrize(
    ("name", "one", "other", "right"),
    [
        (PORTS, "7000,7001,9042", "7000-7001,9042", True),
        (PORTS, "9042,7000-7001", "7000-7001,9042", True),
        (PORTS, "7000-7002", "7000-7001", False),
        (PORTS, "", "", True),
        (PORTS, "", "7000", False),
        ("net.ipv4.tcp_allowed_congestion_control", "cubic reno", "reno cubic", True),
        ("net.ipv4.tcp_allowed_congestion_control", "cubic", "reno cubic", False),
        ("vm.swappiness", "0x0a", "10", True),
        ("vm.swappiness", "012", "10", True),
        ("vm.swappiness", "08", "8", False),
        ("net.ipv4.tcp_rmem", "4096\t87380 16777216", "4096 87380 16777216", True),
        ("net.ipv4.tcp_rmem", "87380 4096 16777216", "4096 87380 16777216", False),
        ("net.core.rps_default_mask", "3", "00000000,00000003", True),
        ("net.core.somaxconn", "4096", "4097", False),
    ],
)
def test_values_are_equal_if_the_kernel_takes_them_for_equal(
    name: str, one: str, other: str, right: bool
) -> None:
    assert values.equal(name, one, other) is right
    assert values.equal(name, other, one) is right


@given(st.sets(st.integers(0, 65535), min_size=1, max_size=50))
def test_a_list_equals_its_ranges_and_no_other_list(ports: set[int]) -> None:
    single = ",".join(str(port) for port in sorted(ports, reverse=True))
    runs = ",".join(f"{port}-{port}" for port in sorted(ports))
    assert values.equal(PORTS, single, runs)
    assert not values.equal(PORTS, f"{single},70000", runs)


@pytest.mark.parametrize(
    ("name", "given_value", "kept"),
    [
        ("net.netfilter.nf_conntrack_buckets", "100000", "100352"),
        ("fs.pipe-max-size", "1398102", "2097152"),
        ("net.core.rps_sock_flow_entries", "1000", "1024"),
        ("vm.nr_hugepages", "4000000", "4000000"),
        ("net.ipv4.tcp_rmem", "1 2 3", "1 2 3"),
    ],
)
def test_what_is_rounded_is_by_a_known_rule(name: str, given_value: str, kept: str) -> None:
    assert values.rounded(name, given_value) == kept


@given(st.integers(1, 10**6))
def test_what_the_kernel_keeps_it_keeps(milliseconds: int) -> None:
    name = "net.ipv4.neigh.v0.retrans_time_ms"
    once = values.rounded(name, str(milliseconds))
    assert values.rounded(name, once) == once
    assert 0 <= int(once) - milliseconds <= 1000 / values.ticks_a_second()


def files(*texts: str) -> SysctlFiles:
    return SysctlFiles((Path(f"{n}.conf"), text.splitlines()) for n, text in enumerate(texts))


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("net.ipv4.conf.*.rp_filter = 2", "net/ipv4/conf/v0/rp_filter", "2"),
        ("net/ipv4/conf/eth?.*/rp_filter=2", "net/ipv4/conf/eth0.100/rp_filter", "2"),
        ("-net.ipv4.conf.{v0,v1}*.rp_filter = 2", "net/ipv4/conf/v1/rp_filter", "2"),
        ("net.ipv4.conf.[!v]*.rp_filter = 2", "net/ipv4/conf/v1/rp_filter", None),
        ("net.ipv4.*.rp_filter = 2", "net/ipv4/conf/v1/rp_filter", None),
        (
            "net.*.conf.*.rp_filter = 2\n-net.ipv4.conf.v1.rp_filter",
            "net/ipv4/conf/v1/rp_filter",
            None,
        ),
        (
            "net.ipv4.conf.v1.rp_filter = 1\nnet.ipv4.conf.*.rp_filter = 2",
            "net/ipv4/conf/v1/rp_filter",
            "1",
        ),
        ("# net.ipv4.conf.*.rp_filter = 2", "net/ipv4/conf/v1/rp_filter", None),
        ("- vm.swappiness = 7", "vm/swappiness", "7"),
    ],
)
def test_patterns_of_sysctl_files_are_read_as_systemd_does(
    text: str, path: str, value: str | None
) -> None:
    found = files(text).of(tuple(path.split("/")))
    assert [setting.value for setting in found] == ([] if value is None else [value])
